"""Estimate the quality of a result from its features, with calibration.json.

Per stem, one ridge regression predicts the global SDR against the true stem, and another the SI-SAR. Their accuracy was
measured on songs with sounds that were not in the fit; where it is insufficient, the estimate is called "experimental".
See CALIBRATION.md.
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
"""The minimum score for production use."""
GATE_SDR_DB = {"vocals": 7.0, "drums": 8.0, "bass": 7.0, "other": 4.5}
"""The SDR that scores `GATE`: about the published mean of Demucs minus 0.67 standard deviations."""
_STEEPNESS_DB = 2.73
SHORT_S = 10.0
_SCORES = {"vocals": "vocal_isolation", "drums": "drum_separation", "bass": "bass_isolation"}
KARAOKE = "vocals of karaoke"
"""The calibration of vocals without the features of other stems."""


@dataclass(frozen=True)
class Estimate:
    """Quality metrics, or the reason why there are none."""

    metrics: QualityMetrics | None
    reason: str | None = None


def score_of(stem: str, sdr_db: float) -> float:
    """Return a score from 0 to 1: a logistic curve through `GATE` at the stem's `GATE_SDR_DB`."""
    centre = GATE_SDR_DB[stem] - _STEEPNESS_DB * math.log(GATE / (1 - GATE))
    return 1 / (1 + math.exp(-(sdr_db - centre) / _STEEPNESS_DB))


def predict_db(ridge: Mapping[str, Any], features: Mapping[str, float]) -> float:
    """Evaluate a ridge regression; a missing feature counts as its mean. The result is finite."""
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
    """Return the content of calibration.json, with its `hash`."""
    content: dict[str, Any] = json.loads(CALIBRATION.read_text())
    text = json.dumps(content, sort_keys=True)
    return content | {"hash": hashlib.sha256(text.encode()).hexdigest()[:8]}


def estimate_quality(
    features: Mapping[str, Mapping[str, float]],
    *,
    model: str,
    quality: Quality,
    duration_s: float,
    karaoke: bool,
) -> Estimate:
    """Estimate the quality from the features of the audible stems."""
    known = {name: values for name, values in features.items() if name in GATE_SDR_DB}
    if karaoke:
        known = {name: values for name, values in known.items() if name == "vocals"}
    if not known:
        why = "the vocals are silent" if karaoke else "all stems are silent"
        return Estimate(None, f"The quality was not estimated: {why}.")
    content = calibration()
    rows = {name: content["stems"][KARAOKE if karaoke else name] for name in known}
    scores = {name: score_of(name, predict_db(row["sdr"], known[name])) for name, row in rows.items()}
    clean = [score_of(name, predict_db(row["si_sar"], known[name])) for name, row in rows.items()]
    overall = sum(scores.values()) / len(scores)
    return Estimate(
        QualityMetrics(
            overall_score=round(overall, 3),
            **{field: round(scores[name], 3) for name, field in _SCORES.items() if name in scores},
            artifact_reduction=round(sum(clean) / len(clean), 3),
            method=_method(content, rows, model),
            low_confidence=duration_s < SHORT_S,
            advice=_advice(overall, model, quality),
        )
    )


def _method(content: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], model: str) -> str:
    """Describe the calibration and its accuracy for each stem."""
    known_model = model in content["models"]
    accuracies = []
    for name, row in rows.items():
        worth = row["worth"]
        experimental = "" if worth["claimed"] and known_model else "experimental, "
        accuracies.append(
            f"{name}: {experimental}rank correlation {worth['spearman']:.2f}, error {worth['mae_db']:.1f} dB"
        )
    untested = "recorded music" if known_model else f"recorded music or on {model}"
    source = f"calibration {content['hash']}, made with {', '.join(content['models'])} on {content['made_on']}"
    return f"estimate v{VERSION} ({source}, not tested on {untested}; {'; '.join(accuracies)})"


def _advice(overall: float, model: str, quality: Quality) -> str | None:
    if overall >= GATE:
        return None
    if model == "mini":
        return "Try another model: htdemucs, or htdemucs_ft."
    if quality is not Quality.BEST:
        return "Try the quality best, or the model htdemucs_ft."
    return "Try another model: mdx_extra." if model == "htdemucs_ft" else "Try another model: htdemucs_ft."
