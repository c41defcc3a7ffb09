"""Fit the quality estimate to `rows.json` and print its accuracy: `python -m training.calibrate`.

Every prediction in the table was made by a fit that had seen neither the song nor any of its soundfonts, kits and
voices (`training.validation_songs.FAMILIES`). With `--write` the coefficients, fitted to everything, go into the
package beside their card.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from engine.quality.estimate import CALIBRATION, GATE, GATE_SDR_DB, KARAOKE, VERSION, score_of
from training.calibration_card import GATE_HEAD, WORTH_HEAD, gate_cells, number, worth_cells, write_card
from training.ridge import REACH, Matrix, Ridge, Vector, fit, interval, spearman
from training.validation_outputs import SHIPPED, Row, embedded_weights, signature_of
from training.validation_songs import FOLDER

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
ALTERED_IMPORTANCE = 0.3  # weight of an output with a planted fault relative to a natural one
MIN_ROWS = 10  # smaller families of outputs are not evaluated
NEEDS_ALL_STEMS = ("residual",)


@dataclass(frozen=True)
class Data:
    """The rows of one stem."""

    names: tuple[str, ...]  # of the features
    x: Matrix
    sdr: Vector
    sar: Vector
    songs: tuple[str, ...]
    sounds: Vector
    ways: Vector
    natural: Vector

    @property
    def importance(self) -> Vector:
        return np.where(self.natural, 1.0, ALTERED_IMPORTANCE)


@dataclass(frozen=True)
class Worth:
    """Accuracy of the predicted SDR of one stem, on natural outputs of unseen sounds."""

    rows: int
    songs: int
    spearman: float
    low: float
    high: float
    mae_db: float
    baseline: float  # the rank correlation of the stem-to-mix level alone
    without_family: dict[str, float]  # rank correlation on a way's outputs by a fit that saw no output of it
    without_sounds: dict[str, float]  # rank correlation within a family of sounds
    shipped: float  # on the shipped weights alone
    penalty: float
    sar_spearman: float
    sar_mae_db: float

    def worst(self, ways: Sequence[str]) -> float:
        """Return the lowest rank correlation on these unseen families of outputs; NaN if none was large enough."""
        return min((self.without_family[way] for way in ways if way in self.without_family), default=float("nan"))

    def claimed(self, natural_ways: Sequence[str]) -> bool:
        """Return whether the estimate is accurate enough not to be called experimental."""
        return (
            self.rows >= 50
            and self.spearman >= 0.7
            and self.low >= 0.5
            and self.mae_db <= 2
            and self.worst(natural_ways) >= 0.5
            and self.spearman > self.baseline
        )


def data_of(rows: Sequence[Row], stem: str) -> Data:
    karaoke = stem == KARAOKE
    chosen = [row for row in rows if row.stem == ("vocals" if karaoke else stem)]
    names = sorted({name for row in chosen for name in row.features})
    if karaoke:
        names = [name for name in names if name not in NEEDS_ALL_STEMS]
    x = np.array([[row.features.get(name, np.nan) for name in names] for row in chosen], np.float64)
    return Data(
        tuple(names),
        x,
        np.array([row.sdr_db for row in chosen]),
        np.array([row.si_sar_db for row in chosen]),
        tuple(row.song for row in chosen),
        np.array([row.sounds for row in chosen]),
        np.array([row.way for row in chosen]),
        np.array([row.natural for row in chosen]),
    )


def held_out(data: Data, y: Vector, penalty: float, columns: Sequence[int] | None = None, without: str = "") -> Vector:
    """Predict each row by a fit to the other families of sounds, without outputs of the way `without`."""
    x = data.x if columns is None else data.x[:, columns]
    out = np.full(len(y), np.nan)
    for sounds in np.unique(data.sounds):
        test = data.sounds == sounds
        train = ~test & (data.ways != without)
        out[test] = fit(x[train], y[train], data.importance[train], penalty)(x[test])
    return out


def worth_of(data: Data) -> Worth:
    natural = data.natural.astype(bool)
    songs = [song for song, keep in zip(data.songs, natural, strict=True) if keep]
    errors = {
        penalty: float(np.abs(held_out(data, data.sdr, penalty) - data.sdr)[natural].mean()) for penalty in PENALTIES
    }
    penalty = min(errors, key=lambda each: errors[each])
    guess = held_out(data, data.sdr, penalty)
    level = held_out(data, data.sdr, penalty, [data.names.index("level")])
    sar = held_out(data, data.sar, penalty)
    low, high = interval(guess[natural], data.sdr[natural], songs)
    families: dict[str, float] = {}
    for way in sorted(set(data.ways)):
        here = data.ways == way
        if here.sum() >= MIN_ROWS:
            families[str(way)] = spearman(held_out(data, data.sdr, penalty, without=str(way))[here], data.sdr[here])
    shipped = data.ways == SHIPPED
    return Worth(
        rows=int(natural.sum()),
        songs=len(set(songs)),
        spearman=spearman(guess[natural], data.sdr[natural]),
        low=low,
        high=high,
        mae_db=errors[penalty],
        baseline=spearman(level[natural], data.sdr[natural]),
        without_family=families,
        without_sounds={
            str(name): spearman(guess[natural & (data.sounds == name)], data.sdr[natural & (data.sounds == name)])
            for name in np.unique(data.sounds)
        },
        shipped=spearman(guess[shipped], data.sdr[shipped]),
        penalty=penalty,
        sar_spearman=spearman(sar[natural], data.sar[natural]),
        sar_mae_db=float(np.abs(sar - data.sar)[natural].mean()),
    )


def gate(data: Data, stem: str, penalty: float) -> dict[str, dict[str, float]]:
    """Return precision and recall of "at least `GATE`", on natural and on all outputs."""
    name = stem if stem in GATE_SDR_DB else "vocals"
    guess = np.array([score_of(name, value) for value in held_out(data, data.sdr, penalty)]) >= GATE
    truth = np.array([score_of(name, value) for value in data.sdr]) >= GATE
    found = {}
    for group, rows in (("natural", data.natural.astype(bool)), ("all", np.ones(len(guess), bool))):
        both = float((guess & truth & rows).sum())
        passed, good = float((guess & rows).sum()), float((truth & rows).sum())
        found[group] = {
            "precision": both / passed if passed else float("nan"),
            "recall": both / good if good else float("nan"),
            "good": good,
            "rows": float(rows.sum()),
        }
    return found


def as_json(ridge: Ridge, names: Sequence[str], y: Vector) -> dict[str, Any]:
    def rounded(values: Vector) -> list[float]:
        return [float(f"{value:.6g}") for value in values]

    low, high = np.percentile(y, [1, 99])
    return {
        "features": list(names),
        "mean": rounded(ridge.mean),
        "scale": rounded(ridge.scale),
        "weights": rounded(ridge.weights),
        "intercept": round(ridge.intercept, 4),
        "reach": REACH,
        "range_db": [round(float(low), 1), round(float(high), 1)],
    }


def calibrated(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the content of the package's calibration: coefficients and their accuracy."""
    stems: dict[str, Any] = {}
    natural_ways = sorted({row.way for row in rows if row.natural})
    for stem in (*GATE_SDR_DB, KARAOKE):
        data = data_of(rows, stem)
        worth = worth_of(data)
        stems[stem] = {
            "sdr": as_json(fit(data.x, data.sdr, data.importance, worth.penalty), data.names, data.sdr),
            "si_sar": as_json(fit(data.x, data.sar, data.importance, worth.penalty), data.names, data.sar),
            "worth": rounded(vars(worth))
            | {"claimed": worth.claimed(natural_ways), "worst_family": rounded(worth.worst(natural_ways))},
            "gate": rounded(gate(data, stem, worth.penalty)),
        }
    songs = {row.song for row in rows}
    return {
        "version": VERSION,
        "made_on": f"{len(songs)} rendered songs",
        "models": [SHIPPED],
        "weights": signature_of(embedded_weights()),
        "date": date.today().isoformat(),  # noqa: DTZ011 - of the card
        "songs": len(songs),
        "sounds": sorted({row.sounds for row in rows}),
        "natural": natural_ways,
        "altered": sorted({row.way for row in rows if not row.natural}),
        "stems": stems,
    }


def rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    if isinstance(values, float):
        return None if np.isnan(values) else round(values, 3)
    return values


def tables(made: dict[str, Any]) -> list[Table]:
    """Return the tables of the validation, of unseen families, and of the gate."""
    worth = Table(*WORTH_HEAD, title=f"Natural outputs of {made['made_on']}, sounds unseen")
    families = [*made["natural"], *made["altered"]]
    unseen = Table("stem", *families, title="Rank correlation on a family of outputs that the fit did not see")
    sounds = Table("stem", *made["sounds"], title="Rank correlation within a family of sounds that the fit did not see")
    passed = Table(*GATE_HEAD, title=f"Scores of at least {GATE}")
    for stem, row in made["stems"].items():
        worth.add_row(*worth_cells(stem, row["worth"]))
        unseen.add_row(stem, *(number(row["worth"]["without_family"].get(name)) for name in families))
        sounds.add_row(stem, *(number(row["worth"]["without_sounds"].get(name)) for name in made["sounds"]))
        for group, figures in row["gate"].items():
            passed.add_row(*gate_cells(stem, group, figures))
    return [worth, unseen, sounds, passed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--write", action="store_true", help="write calibration.json and its card into the package")
    args = parser.parse_args()
    rows = [Row(**row) for row in json.loads((args.folder / "rows.json").read_text())]
    made = calibrated(rows)
    console = Console()
    for table in tables(made):
        console.print(table)
    if args.write:
        CALIBRATION.write_text(json.dumps(made, indent=1) + "\n")
        console.print(f"written: {CALIBRATION}, {write_card(made)}")


if __name__ == "__main__":
    main()
