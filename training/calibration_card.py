"""The card of the calibration, in Markdown: its data and its accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.quality.estimate import CALIBRATION, GATE, GATE_SDR_DB, KARAOKE, SHORT_S
from engine.quality.identity import coefficients

WORTH_HEAD = (
    "stem", "outputs", "Spearman", "95 %", "error, dB", "level alone", "worst unseen family", "shipped weights alone",
    "SI-SAR: Spearman", "error, dB", "claim",
)  # fmt: skip
GATE_HEAD = ("stem", "outputs", "good", "precision", "recall")


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


def identity_tables(made: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Return (title, head, rows) of the tables of failures and of absent stems."""
    overall = [
        [kind, f"{row['songs']:.0f}", number(row["before"]), number(row["after"]), number(row["lowest"]),
         number(row["highest"])]
        for kind, row in made["figures"]["overall"].items()
    ]  # fmt: skip
    absent = [
        [stem, f"{row['wrongly']:.0f} of {row['with']:.0f}", f"{row['found']:.0f} of {row['without']:.0f}"]
        for stem, row in made["figures"]["absent"].items()
    ]
    return [
        ("Overall score of failures", ("stems", "songs", "without notice", "mean", "lowest", "highest"), overall),
        ("Absent stems", ("stem", "called absent, of songs with it", "of songs without it"), absent),
    ]


def write_card(made: dict[str, Any]) -> Path:
    """Write the card beside the coefficients; return its path."""
    stems = made["stems"].items()
    families = [*made["natural"], *made["altered"]]
    unseen_outputs = [_numbers(stem, row["worth"]["without_family"], families) for stem, row in stems]
    unseen_sounds = [_numbers(stem, row["worth"]["without_sounds"], made["sounds"]) for stem, row in stems]
    passed = [gate_cells(stem, group, figures) for stem, row in stems for group, figures in row["gate"].items()]
    gates = ", ".join(f"{stem} {sdr_db:g} dB" for stem, sdr_db in GATE_SDR_DB.items())
    told = coefficients()
    failures, absent = (markdown(head, rows) for _, head, rows in identity_tables(told))
    text = f"""# Accuracy of the quality estimate

Written by `python -m training.calibrate --write` ({made["date"]}); the recipe is in `training/README.md`.

The scores are **estimates without the true stems**. For each stem, a ridge regression predicts the global SDR, and a
logistic curve turns it into a score: {GATE} at {gates}. They
do not replace a listening test. `artifact_reduction` comes from a predicted SI-SAR by the same curve; `overall_score`
is the mean of the audible stems. Songs under {SHORT_S:g} s get low confidence.

Fitted to {made["made_on"]} of 12 s with known stems, in families that share no soundfont, drum kit or voice
({", ".join(made["sounds"])}), separated by {", ".join(made["models"])} (weights {made["weights"]}).
Natural outputs: {", ".join(made["natural"])}.
Altered outputs, with less weight: {", ".join(made["altered"])}.

## Natural outputs of unseen sounds

{markdown(WORTH_HEAD, [worth_cells(stem, row["worth"]) for stem, row in stems])}

The claim is met if, on at least 50 outputs, Spearman's correlation is at least 0.70, the lower bound of its interval
(songs resampled) at least 0.5, the mean error at most 2 dB, the correlation on every unseen natural family of outputs
at least 0.5, and the level of the stem relative to the mix alone is a worse predictor. Otherwise, and for other models,
the estimate is called unvalidated. `{KARAOKE}`
are estimated without features of the other stems. The penalty of the ridge was chosen by these same errors, so they are
slightly optimistic.

## Spearman on an unseen family of outputs

{markdown(["stem", *families], unseen_outputs)}

## Spearman within an unseen family of sounds

{markdown(["stem", *made["sounds"]], unseen_sounds)}

## Scores of at least {GATE}

{markdown(GATE_HEAD, passed)}

## Failures and absent stems

On {told["made_on"]} (families {", ".join(told["sounds"])}), by a fit of `identity.json` that has not seen the family.
All scores of a failure are multiplied by a factor from 0 to 1 (`training/README.md`).

{failures}

A stem that is not in the song has no score:

{absent}

## Limits

- **Other models than {", ".join(made["models"])}, and recorded music**: not tested on these, because the stems of only
  one recording were available. The estimate is called unvalidated for
  other models.
- **Failures of karaoke**: with one stem, only sound that is not in the song is noticed.
- **Unseen kinds of faults** lower the rank correlation as the tables above show.
- **A bass drum and a bass that play together** each count as the other's error.
"""
    path = CALIBRATION.with_name("CALIBRATION.md")
    path.write_text(text)
    return path


def _numbers(stem: str, figures: dict[str, float | None], columns: Iterable[str]) -> list[str]:
    return [stem, *(number(figures.get(name)) for name in columns)]
