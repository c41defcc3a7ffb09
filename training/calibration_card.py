"""The calibration's card: what the coefficients were made from and what they are worth, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.quality.estimate import CALIBRATION, GATE, GATE_SDR_DB, KARAOKE, SHORT_S

WORTH_HEAD = (
    "stem", "outputs", "Spearman", "95 %", "error, dB", "level alone", "worst unseen family", "shipped weights alone",
    "SI-SAR: Spearman", "error, dB", "claim",
)  # fmt: skip
GATE_HEAD = ("stem", "outputs", "of them good", "precision", "recall")


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def worth_cells(stem: str, worth: dict[str, Any]) -> list[str]:
    return [
        stem, str(worth["rows"]), number(worth["spearman"]), f"{number(worth['low'])} to {number(worth['high'])}",
        number(worth["mae_db"]), number(worth["baseline"]), number(worth["worst_family"]), number(worth["shipped"]),
        number(worth["sar_spearman"]), number(worth["sar_mae_db"]), "met" if worth["claimed"] else "experimental",
    ]  # fmt: skip


def gate_cells(stem: str, group: str, figures: dict[str, float | None]) -> list[str]:
    rows, good = figures["rows"] or 0, figures["good"] or 0
    return [stem, f"{group}, {rows:.0f}", f"{good:.0f}", number(figures["precision"]), number(figures["recall"])]


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_card(made: dict[str, Any]) -> Path:
    """Beside the coefficients; tells where."""
    stems = made["stems"].items()
    families = [*made["natural"], *made["altered"]]
    unseen_outputs = [_numbers(stem, row["worth"]["without_family"], families) for stem, row in stems]
    unseen_sounds = [_numbers(stem, row["worth"]["without_sounds"], made["sounds"]) for stem, row in stems]
    passed = [gate_cells(stem, group, figures) for stem, row in stems for group, figures in row["gate"].items()]
    gates = ", ".join(f"{stem} {sdr_db:g} dB" for stem, sdr_db in GATE_SDR_DB.items())
    text = f"""# The quality estimate: what it is worth

Written by `python -m training.calibrate --write` ({made["date"]}); the recipe is in `training/README.md`.

The scores are **estimates from the sound alone**: a ridge regression a stem predicts the global SDR that the true stem
would show, and a logistic curve makes a score of it: {GATE} at {gates}. They are no
listening test and say nothing about taste. `artifact_reduction` comes from a predicted SI-SAR by the same curve;
`overall_score` is the mean of the stems that are heard. Songs under {SHORT_S:g} s get low confidence.

Made from {made["made_on"]} of 12 s with known stems, in families that share no soundfont, drum kit or voice
({", ".join(made["sounds"])}), separated by {", ".join(made["models"])} (weights {made["weights"]}).
Natural outputs: {", ".join(made["natural"])}.
Altered ones, of less weight: {", ".join(made["altered"])}.

## On natural outputs of sounds that the fit has not seen

{markdown(WORTH_HEAD, [worth_cells(stem, row["worth"]) for stem, row in stems])}

The claim is met where, on at least 50 outputs, Spearman's correlation is 0.70 or more with the lower bound (songs drawn
again) at 0.5 or more, the mean error at most 2 dB, no natural family of outputs that the fit did not see under 0.5, and
the level of the stem against the mix alone does worse. Elsewhere the method says "experimental". `{KARAOKE}`
are estimated without what the other stems would tell. How strongly the ridge holds back was chosen by these same
errors, which flatters them a little.

## Spearman on a family of outputs that the fit did not see

{markdown(["stem", *families], unseen_outputs)}

## Spearman within a family of sounds that the fit did not see

{markdown(["stem", *made["sounds"]], unseen_sounds)}

## Scores of at least {GATE}

{markdown(GATE_HEAD, passed)}

## What it is not good at

- **Other models than {", ".join(made["models"])}, and recorded music**: never tried: of one recording
  alone the stems were at hand. The method says so.
- **Faults of a kind it has not met**: the tables above show how the order of outputs suffers.
- **A bass drum and a bass that play together** look like each other's error.
"""
    path = CALIBRATION.with_name("CALIBRATION.md")
    path.write_text(text)
    return path


def _numbers(stem: str, figures: dict[str, float | None], columns: Iterable[str]) -> list[str]:
    return [stem, *(number(figures.get(name)) for name in columns)]
