"""Separate validation songs at different qualities: `python -m training.validation_outputs`.

The features of the estimate are stored with the true scores.

Natural outputs come from networks: the shipped weights with several plans, and earlier checkpoints of the training.
Altered ones are the shipped weights' outputs with a known fault (or brought nearer to the truth, for scores that the
networks do not reach). Existing separations are kept.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from engine.quality import features
from engine.quality import sdr as scores
from engine.quality.features import Features, StemMeter
from engine.quality.sdr import sdr_db, si_scores_db
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.schedule.batcher import Batcher
from engine.synth.song import STEMS
from engine.synth.synthesizer import SAMPLE_RATE, Audio
from training import faults
from training.faults import FAULTS, altered
from training.mixing import read
from training.scores import EMBEDDED, load_checkpoint, load_embedded
from training.validation_songs import FOLDER

Stems = dict[str, Audio]
_BLOCK_SAMPLES = 3 * SAMPLE_RATE


@dataclass(frozen=True)
class Way:
    """How songs are separated. `every`: only each so many-th song of a family."""

    name: str
    checkpoint: Path | None = None  # None: the shipped weights
    shifts: int = 0
    overlap: float = 0.25
    segment_s: float | None = None
    every: int = 1
    absent: str | None = None  # a stem that is taken out of the song first


@dataclass(frozen=True)
class Row:
    """One stem of one output."""

    song: str
    sounds: str  # the family of its sounds
    way: str
    natural: bool
    stem: str
    features: dict[str, float]
    sdr_db: float
    si_sar_db: float


SHIPPED = "mini"
PLANS = (Way(SHIPPED), Way("overlap 0.1", overlap=0.1, every=4), Way("two shifts", shifts=2, every=4))


def ways(checkpoints: Iterable[Path], every: int) -> list[Way]:
    return [*PLANS, *(Way(path.stem, checkpoint=path, every=every) for path in checkpoints)]


class _Song:
    def __init__(self, mix: Audio) -> None:
        self.mix = torch.from_numpy(mix)
        self.samples = mix.shape[1]
        mono = self.mix.mean(0)
        self.mean, self.std = float(mono.mean()), float(mono.std()) + 1e-8
        self.stems = {name: np.zeros_like(mix) for name in STEMS}

    def read(self, start: int, stop: int) -> torch.Tensor:
        return (self.mix[:, start:stop] - self.mean) / self.std

    def write(self, start: int, stems: dict[str, torch.Tensor]) -> None:
        for name, block in stems.items():
            self.stems[name][:, start : start + block.shape[1]] = block.numpy() * self.std + self.mean


def separated(batcher: Batcher, model: LoadedModel, mix: Audio, way: Way) -> tuple[Stems, dict[str, float | None]]:
    """Return the stems as a worker would, and the agreement of the passes."""
    song = _Song(mix)
    report = batcher.run(
        model, song, song, stems=STEMS, shifts=way.shifts, overlap=way.overlap, segment_s=way.segment_s, seed=0
    )
    return song.stems, dict(report.agreement_db)


def measured(
    mix: Audio, stems: Stems, agreement_db: Mapping[str, float | None]
) -> tuple[dict[str, Features], dict[str, Features]]:
    """Return the features and the shapes of the audible stems."""
    meter = StemMeter(STEMS)
    for start in range(0, mix.shape[1], _BLOCK_SAMPLES):
        here = slice(start, start + _BLOCK_SAMPLES)
        meter.add(mix[:, here], {name: stems[name][:, here] for name in STEMS})
    meter.finish()
    rest = mix.astype(np.float64) - np.sum(np.stack([stems[name] for name in STEMS]), axis=0)
    residual_db = 10 * float(np.log10(np.sum(rest**2) / np.sum(mix.astype(np.float64) ** 2) + 1e-12))
    found = meter.features(agreement_db, residual_db)
    return found, meter.shapes(found)


def rows_of(
    truth: Stems, stems: Stems, agreement_db: dict[str, float | None], *, song: str, way: str, natural: bool
) -> Iterator[Row]:
    """Of the stems that are heard, in the truth and in the output."""
    mix: Audio = np.sum(np.stack([truth[name] for name in STEMS]), axis=0)
    references = np.stack([truth[name] for name in STEMS])
    for name, seen in measured(mix, stems, agreement_db)[0].items():
        if np.abs(truth[name]).max() < 1e-4:
            continue
        sar_db = si_scores_db(references, STEMS.index(name), stems[name])[2]
        yield Row(
            song, song.split("-")[0], way, natural, name, seen,
            float(np.clip(sdr_db(truth[name], stems[name]), -15, 30)), float(np.clip(sar_db, -15, 30)),
        )  # fmt: skip


class Outputs:
    """The folder of what has been separated; int16, with the agreement beside it."""

    def __init__(self, folder: Path) -> None:
        self.songs = sorted(folder.glob("*.npy"), key=lambda path: (int(path.stem.split("-")[1]), path.stem))
        self.folder = folder

    def songs_for(self, way: Way) -> list[Path]:
        return [path for path in self.songs if int(path.stem.split("-")[1]) % way.every == 0]

    def truth(self, way: Way, song: Path) -> Stems:
        """Return the true stems of what is separated."""
        stems = read(song)
        return stems if way.absent is None else {**stems, way.absent: np.zeros_like(stems[way.absent])}

    def paths(self, way: Way, song: str, signature: str) -> tuple[Path, Path]:
        base = self.folder / "outputs" / f"{way.name} {signature}" / song
        return base.with_suffix(".npy"), base.with_suffix(".json")

    def separate(self, way: Way, model: LoadedModel, signature: str, batcher: Batcher) -> None:
        missing = [path for path in self.songs_for(way) if not self.paths(way, path.stem, signature)[1].exists()]
        for path in track(missing, f"{way.name} ({signature})", disable=not missing):
            audio, beside = self.paths(way, path.stem, signature)
            audio.parent.mkdir(parents=True, exist_ok=True)
            truth = self.truth(way, path)
            if way.absent and not np.any(read(path)[way.absent]):
                continue  # the song itself lacks it
            mix: Audio = np.sum(np.stack([truth[name] for name in STEMS]), axis=0)
            stems, agreement_db = separated(batcher, model, mix, way)
            scale = max(float(np.abs(stem).max()) for stem in stems.values()) / 32767 or 1.0
            np.save(audio, np.stack([np.round(stems[name] / scale) for name in STEMS]).astype(np.int16))
            beside.write_text(json.dumps({"scale": scale, "agreement_db": agreement_db}))

    def load(self, way: Way, song: str, signature: str) -> tuple[Stems, dict[str, float | None]]:
        audio, beside = self.paths(way, song, signature)
        noted: dict[str, Any] = json.loads(beside.read_text())
        whole: NDArray[np.int16] = np.load(audio)
        return (
            {name: stem * np.float32(noted["scale"]) for name, stem in zip(STEMS, whole, strict=True)},
            noted["agreement_db"],
        )


def embedded_weights() -> Path:
    (weights,) = EMBEDDED.glob("*.safetensors")
    return weights


def signature_of(path: Path) -> str:
    return f"{zlib.crc32(path.read_bytes()):08x}"


def rows_of_song(outputs: Outputs, way: Way, song: Path, signature: str, *, with_faults: bool) -> list[Row]:
    """Of an output, and of what the faults make of it; kept until the code that makes them changes."""
    _, beside = outputs.paths(way, song.stem, signature)
    kept, made_by = beside.with_suffix(".rows.json"), f"{_code_signature()} {with_faults}"
    if kept.exists() and (found := json.loads(kept.read_text()))["made_by"] == made_by:
        return [Row(**row) for row in found["rows"]]
    truth = read(song)
    stems, agreement_db = outputs.load(way, song.stem, signature)
    rows = list(rows_of(truth, stems, agreement_db, song=song.stem, way=way.name, natural=True))
    for fault in FAULTS if with_faults else ():
        rng = np.random.default_rng(zlib.crc32(f"{song.stem} {fault}".encode()))
        changed, agreement = altered(fault, stems, truth, agreement_db, rng)
        rows += rows_of(truth, changed, agreement, song=song.stem, way=fault, natural=False)
    kept.write_text(json.dumps({"made_by": made_by, "rows": [asdict(row) for row in rows]}))
    return rows


@cache
def _code_signature() -> str:
    return "".join(signature_of(Path(module.__file__ or "")) for module in (features, faults, scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", type=Path, help="ema-*.pt of earlier stages of the training")
    parser.add_argument("--every", type=int, default=3, help="checkpoints separate each so many-th song (3)")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--threads", type=int, default=0, help="of torch (default: all cores)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    outputs, batcher = Outputs(args.folder), Batcher()
    shipped = LoadedModel.of(load_embedded(), SHIPPED)
    rows: list[Row] = []
    for way in ways(args.checkpoints, args.every):
        model = shipped if way.checkpoint is None else LoadedModel.of(load_checkpoint(way.checkpoint), way.name)
        signature = signature_of(way.checkpoint or embedded_weights())
        outputs.separate(way, model, signature, batcher)
        for song in track(outputs.songs_for(way), "measuring"):
            rows += rows_of_song(outputs, way, song, signature, with_faults=way.name == SHIPPED)
    file = args.folder / "rows.json"
    file.write_text(json.dumps([asdict(row) for row in rows]))
    print(f"{len(rows)} stems of {len({row.song for row in rows})} songs in {file}")


if __name__ == "__main__":
    main()
