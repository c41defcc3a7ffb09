"""From features to the estimated quality of a result, by the calibration beside this file.

Per stem a ridge regression predicts the global SDR that the true stem would show, and another the SI-SAR. How well it
does that was measured on outputs of songs whose sounds it had not seen; where that is not well enough, the method says
"experimental". See CALIBRATION.md.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.jobs.options import Quality
from engine.jobs.results import QualityMetrics

VERSION = 1
CALIBRATION = Path(__file__).with_name("calibration.json")
GATE = 0.75
"""The data model's minimum for production use."""
GATE_SDR_DB = {"vocals": 7.0, "drums": 8.0, "bass": 7.0, "other": 4.5}
"""Where the score is `GATE`: a policy, near the published means of Demucs minus 0.67 of their deviation."""
_STEEPNESS_DB = 2.73
SHORT_S = 10.0
_SCORES = {"vocals": "vocal_isolation", "drums": "drum_separation", "bass": "bass_isolation"}
KARAOKE = "vocals of karaoke"
"""The vocals by what can be seen of them where the other stems were not made."""


@dataclass(frozen=True)
class Estimate:
    """`metrics`, or None for the `reason`."""

    metrics: QualityMetrics | None
    reason: str | None = None


def score_of(stem: str, sdr_db: float) -> float:
    """0 to 1: a logistic curve through `GATE` at the stem's `GATE_SDR_DB`."""
    centre = GATE_SDR_DB[stem] - _STEEPNESS_DB * math.log(GATE / (1 - GATE))
    return 1 / (1 + math.exp(-(sdr_db - centre) / _STEEPNESS_DB))


def predicted_db(ridge: Mapping[str, Any], features: Mapping[str, float]) -> float:
    """A ridge of the calibration at these features; a feature that is not there counts as its mean. Always finite."""
    total = float(ridge["intercept"])
    for name, mean, scale, weight in zip(
        ridge["features"], ridge["mean"], ridge["scale"], ridge["weights"], strict=True
    ):
        value = features.get(name)
        if value is not None and math.isfinite(value):
            total += weight * float(np.clip((value - mean) / scale, -ridge["reach"], ridge["reach"]))
    low, high = ridge["range_db"]
    return float(min(max(total, low), high))


@cache
def calibration() -> dict[str, Any]:
    """The file's content, and its `hash`: of the coefficients and what they are worth."""
    content: dict[str, Any] = json.loads(CALIBRATION.read_text())
    text = json.dumps(content, sort_keys=True)
    return content | {"hash": hashlib.sha256(text.encode()).hexdigest()[:8]}


def estimated(
    features: Mapping[str, Mapping[str, float]],
    *,
    model: str,
    quality: Quality,
    duration_s: float,
    karaoke: bool,
) -> Estimate:
    """`features`: of the stems that are heard."""
    known = {name: values for name, values in features.items() if name in GATE_SDR_DB}
    if karaoke:
        known = {name: values for name, values in known.items() if name == "vocals"}
    if not known:
        what = "the vocals are silent" if karaoke else "there is no stem to be heard"
        return Estimate(None, f"The quality was not estimated: {what}.")
    made = calibration()
    rows = {name: made["stems"][KARAOKE if karaoke else name] for name in known}
    scores = {name: score_of(name, predicted_db(row["sdr"], known[name])) for name, row in rows.items()}
    clean = [score_of(name, predicted_db(row["si_sar"], known[name])) for name, row in rows.items()]
    overall = sum(scores.values()) / len(scores)
    return Estimate(
        QualityMetrics(
            overall_score=round(overall, 3),
            **{field: round(scores[name], 3) for name, field in _SCORES.items() if name in scores},
            artifact_reduction=round(sum(clean) / len(clean), 3),
            method=_method(made, rows, model),
            low_confidence=duration_s < SHORT_S,
            advice=_advice(overall, model, quality),
        )
    )


def _method(made: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], model: str) -> str:
    """What was used and what it is worth, stem by stem."""
    known_model = model in made["models"]
    words = []
    for name, row in rows.items():
        worth = row["worth"]
        experimental = "" if worth["claimed"] and known_model else "experimental, "
        words.append(f"{name}: {experimental}rank correlation {worth['spearman']:.2f}, error {worth['mae_db']:.1f} dB")
    untried = "recorded music" if known_model else f"recorded music or on {model}"
    made_of = f"calibration {made['hash']}, made with {', '.join(made['models'])} on {made['made_on']}"
    return f"estimate v{VERSION} ({made_of}, never tried on {untried}; {'; '.join(words)})"


def _advice(overall: float, model: str, quality: Quality) -> str | None:
    if overall >= GATE:
        return None
    if model == "mini":
        return "Try another model: htdemucs, or htdemucs_ft."
    if quality is not Quality.BEST:
        return "Try the quality best, or the model htdemucs_ft."
    return "Try another model: mdx_extra." if model == "htdemucs_ft" else "Try another model: htdemucs_ft."
