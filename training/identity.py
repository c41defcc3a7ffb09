"""Fit what tells stems apart, and test the notice of failures and absent stems: `python -m training.identity`.

The fit sees the true stems of the validation songs, and their stems by the shipped weights. Every figure in the
tables is from a fit that saw no song of the same family. With `--write`, identity.json goes into the package.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engine.jobs.options import Quality
from engine.quality import features, identity, shape
from engine.quality.estimate import Estimate, calibration, estimate_quality, predict_db, score_of
from engine.quality.features import Features
from engine.quality.identity import IDENTITY, REACH
from engine.quality.sdr import sdr_db
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.schedule.batcher import Batcher
from engine.synth.song import STEMS
from engine.synth.synthesizer import Audio
from training.calibrate import rounded
from training.calibration_card import identity_tables, write_card
from training.model import new_model
from training.ridge import Matrix
from training.scores import load_embedded
from training.validation_outputs import (
    SHIPPED,
    Outputs,
    Stems,
    Way,
    embedded_weights,
    measured,
    separated,
    signature_of,
)
from training.validation_songs import FOLDER

WHOLE = Way("fast", overlap=0.1)
WITHOUT = {
    stem: Way(f"no {stem}", overlap=0.1, absent=stem, every=1 if stem == "vocals" else 2)
    for stem in ("vocals", "drums", "bass")
}
SIGNATURE = signature_of(embedded_weights())
UNTRAINED_SONGS = 2  # of each family
PENALTY = 0.03
MIN_SDR_DB = 2.0  # a worse stem does not sound like what it is
HIGHEST_FAILED = 0.35
FAILURES = ("untrained", "mix / 4", "swapped")


@dataclass(frozen=True)
class Case:
    """The stems of one song as the worker measures them; `labels` has the stems that the fit may use."""

    song: str
    kind: str
    heard: frozenset[str]  # in the true song
    labels: frozenset[str]
    features: Mapping[str, Features]
    shapes: Mapping[str, Features]

    @property
    def family(self) -> str:
        return self.song.split("-")[0]

    def estimate(self) -> Estimate:
        return estimate_quality(
            self.features, self.shapes, model=SHIPPED, quality=Quality.FAST, duration_s=60.0, karaoke=False
        )


def fit(x: Matrix, labels: Sequence[str], penalty: float = PENALTY) -> dict[str, Any]:
    """Fit a softmax regression in which every stem has the same weight; return the content of identity.json."""
    mean, scale = x.mean(0), x.std(0) + 1e-3
    z = torch.from_numpy(np.clip((x - mean) / scale, -REACH, REACH))
    rows = torch.tensor([STEMS.index(label) for label in labels])
    importance = (1 / torch.bincount(rows, minlength=len(STEMS)).double())[rows] / len(STEMS)
    weights = torch.zeros(x.shape[1], len(STEMS), dtype=torch.double, requires_grad=True)
    intercepts = torch.zeros(len(STEMS), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, intercepts], max_iter=300)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        error = torch.nn.functional.cross_entropy(z @ weights + intercepts, rows, reduction="none")
        total = (importance * error).sum() + penalty * (weights**2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]

    def digits(values: Any) -> Any:
        return np.vectorize(lambda value: float(f"{value:.5g}"))(values).tolist()

    return {
        "stems": list(STEMS), "mean": digits(mean), "scale": digits(scale),
        "weights": digits(weights.detach().numpy()), "intercepts": digits(intercepts.detach().numpy()),
    }  # fmt: skip


def fit_to(cases: Sequence[Case]) -> dict[str, Any]:
    """Fit to the labelled stems of these cases."""
    rows = [(name, case.shapes[name]) for case in cases for name in STEMS if name in case.labels & case.shapes.keys()]
    features = sorted(rows[0][1].keys() - {"likeness"})
    x = np.array([[shape[feature] for feature in features] for _, shape in rows])
    return {"features": features} | fit(x, [name for name, _ in rows])


def kept_cases(outputs: Outputs, batcher: Batcher, song: Path) -> list[Case]:
    """Return the cases of a song, which are kept until the code that measures them changes."""
    kept = outputs.folder / "cases" / f"{song.stem}.json"
    made_by = "".join(signature_of(Path(module.__file__ or "")) for module in (features, shape)) + SIGNATURE
    if kept.exists() and (found := json.loads(kept.read_text()))["made_by"] == made_by:
        return [Case(**case | {name: frozenset(case[name]) for name in ("heard", "labels")}) for case in found["cases"]]
    cases = list(cases_of(outputs, batcher, song))
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps({"made_by": made_by, "cases": [vars(case) for case in cases]}, default=sorted))
    return cases


def cases_of(outputs: Outputs, batcher: Batcher, song: Path) -> Iterator[Case]:
    """Measure a song's true stems, separated stems, and failures."""
    number = int(song.stem.split("-")[1])
    truth = outputs.truth(WHOLE, song)
    heard = frozenset(name for name in STEMS if np.abs(truth[name]).max() > 1e-4)
    mix: Audio = np.sum(np.stack([truth[name] for name in STEMS]), axis=0)
    stems, agreement_db = outputs.load(WHOLE, song.stem, SIGNATURE)
    good = frozenset(name for name in heard if sdr_db(truth[name], stems[name]) > MIN_SDR_DB)

    def case(kind: str, stems: Stems, labels: frozenset[str] = frozenset()) -> Case:
        return Case(song.stem, kind, heard, labels, *measured(mix, stems, agreement_db))

    yield case("true stems", truth, heard)
    separated_case = case("separated", stems, good)
    yield separated_case
    if {"vocals", "drums"} <= heard:
        yield _swapped(separated_case)
    quarter = np.asarray(mix / 4, np.float32)
    yield case("mix / 4", dict.fromkeys(STEMS, quarter))
    if number < UNTRAINED_SONGS:
        torch.manual_seed(number)
        model = LoadedModel.of(new_model().eval(), "untrained")
        yield case("untrained", separated(batcher, model, mix, WHOLE)[0])
    for stem, way in WITHOUT.items():
        if stem in heard and outputs.paths(way, song.stem, SIGNATURE)[1].exists():
            left = outputs.truth(way, song)
            rest: Audio = np.sum(np.stack([left[name] for name in STEMS]), axis=0)
            parts = measured(rest, *outputs.load(way, song.stem, SIGNATURE))
            yield Case(song.stem, way.name, heard - {stem}, frozenset(), *parts)


def _swapped(case: Case) -> Case:
    names = {"vocals": "drums", "drums": "vocals"}
    features, shapes = (
        {names.get(name, name): value for name, value in each.items()} for each in (case.features, case.shapes)
    )
    return Case(case.song, "swapped", case.heard, frozenset(), features, shapes)


def held_out(cases: Sequence[Case]) -> list[Estimate]:
    """Estimate each case with a fit to the other families."""
    result: dict[int, Estimate] = {}
    for family in sorted({case.family for case in cases}):
        content = fit_to([case for case in cases if case.family != family])
        with mock.patch.object(identity, "coefficients", lambda content=content: content):
            result |= {i: case.estimate() for i, case in enumerate(cases) if case.family == family}
    return [result[i] for i in range(len(cases))]


def plain_score(case: Case) -> float:
    """Return the mean score of the audible stems, without the notice of failures and absent stems."""
    rows = calibration()["stems"]
    return float(np.mean([score_of(name, predict_db(rows[name]["sdr"], seen)) for name, seen in case.features.items()]))


def figures_of(cases: Sequence[Case], estimates: Sequence[Estimate]) -> dict[str, Any]:
    """Return the overall scores of each kind of output, how often absent stems are found, and the fit's accuracy."""
    overall: dict[str, dict[str, float]] = {}
    for kind in ("separated", *FAILURES):
        rows = [i for i, case in enumerate(cases) if case.kind == kind]
        before = np.array([plain_score(cases[i]) for i in rows])
        after = np.array([_overall(estimates[i]) for i in rows])
        overall[kind] = {
            "songs": len(rows), "before": float(before.mean()), "highest_before": float(before.max()),
            "after": float(after.mean()), "highest": float(after.max()), "lowest": float(after.min()),
            "failed": float((after <= HIGHEST_FAILED).mean()),
        }  # fmt: skip
    absent: dict[str, dict[str, float]] = {}
    for stem, way in WITHOUT.items():
        with_stem = [i for i, case in enumerate(cases) if case.kind == "separated" and stem in case.heard]
        without = [
            i for i, case in enumerate(cases)
            if case.kind == way.name or (case.kind == "separated" and stem not in case.heard)
        ]  # fmt: skip
        absent[stem] = {
            "with": len(with_stem), "wrongly": sum(_absent(cases[i], estimates[i], stem) for i in with_stem),
            "without": len(without), "found": sum(_absent(cases[i], estimates[i], stem) for i in without),
        }  # fmt: skip
    return {"overall": overall, "absent": absent}


def _overall(estimate: Estimate) -> float:
    return estimate.metrics.overall_score if estimate.metrics is not None else 0.0


def _absent(case: Case, estimate: Estimate, stem: str) -> bool:
    return stem not in case.features or (estimate.metrics is not None and stem in estimate.metrics.absent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--write", action="store_true", help="write identity.json and the card into the package")
    args = parser.parse_args()
    outputs, batcher = Outputs(args.folder), Batcher()
    shipped = LoadedModel.of(load_embedded(), SHIPPED)
    for way in (WHOLE, *WITHOUT.values()):
        outputs.separate(way, shipped, SIGNATURE, batcher)
    cases = [case for song in track(outputs.songs) for case in kept_cases(outputs, batcher, song)]
    figures = figures_of(cases, held_out(cases))
    families = sorted({case.family for case in cases})
    made = {"made_on": f"{len(outputs.songs)} rendered songs", "sounds": families, "figures": rounded(figures)}
    console = Console()
    for title, head, rows in identity_tables(made):
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if args.write:
        IDENTITY.write_text(json.dumps(made | fit_to(cases), indent=1) + "\n")
        identity.coefficients.cache_clear()
        console.print(f"written: {IDENTITY}, {write_card(calibration())}")


if __name__ == "__main__":
    main()
