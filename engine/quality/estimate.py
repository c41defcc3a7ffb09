"""Estimate the quality of a result from its features, with calibration.json.

Per stem, one ridge regression predicts the global SDR against the true stem, and another the SI-SAR. Their accuracy was
measured on songs with sounds that were not in the fit; where it was not, or is insufficient, the estimate is called
"unvalidated". See CALIBRATION.md. A separation that failed lowers all scores (`engine.quality.failure`).
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
from engine.jobs.words import LOWEST_SCORES, word_of
from engine.quality.failure import find_failure

VERSION = 2
CALIBRATION = Path(__file__).with_name("calibration.json")
GATE = LOWEST_SCORES["good"]
"""The minimum score for production use."""
GATE_SDR_DB = {"vocals": 7.0, "drums": 8.0, "bass": 7.0, "other": 4.5}
"""The SDR that scores `GATE`: about the published mean of Demucs minus 0.67 standard deviations."""
_STEEPNESS_DB = 2.73
ABSENT_SDR_DB = 1.5
ABSENT_LEVEL_DB = {"vocals": -12.0, "drums": -18.0, "bass": -18.0}
"""A stem with a lower level, relative to the mix, and a lower predicted SDR has only leakage of the others."""
SHORT_S = 10.0
_SCORES = {"vocals": "vocal_isolation", "drums": "drum_separation", "bass": "bass_isolation"}
KARAOKE = "vocals of karaoke"
"""The calibration of vocals without the features of other stems."""


@dataclass(frozen=True)
class Estimate:
    """Quality metrics, None if nothing can be estimated, and sentences about them for the user."""

    metrics: QualityMetrics | None
    notes: tuple[str, ...] = ()


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
    shapes: Mapping[str, Mapping[str, float]],
    *,
    model: str,
    quality: Quality,
    duration_s: float,
    karaoke: bool,
) -> Estimate:
    """Estimate the quality from the features and shapes of the audible stems."""
    known = {name: values for name, values in features.items() if name in GATE_SDR_DB}
    if karaoke:
        known = {name: values for name, values in known.items() if name == "vocals"}
    if not known:
        why = "the vocals are silent" if karaoke else "all stems are silent"
        return Estimate(None, (f"The quality was not estimated: {why}.",))
    content = calibration()
    rows = {name: content["stems"][KARAOKE if karaoke else name] for name in known}
    sdr_db = {name: predict_db(row["sdr"], known[name]) for name, row in rows.items()}
    failure = find_failure(known, {name: shapes[name] for name in known})
    absent = () if failure.notes else _absent_stems(known, sdr_db)
    present = [name for name in known if name not in absent]
    if not present:
        return Estimate(None, (*map(_absence, absent), "The quality was not estimated."))
    scores = {name: round(failure.factor * score_of(name, sdr_db[name]), 3) for name in present}
    clean = [score_of(name, predict_db(rows[name]["si_sar"], known[name])) for name in present]
    overall = round(sum(scores.values()) / len(scores), 3)
    validated = model in content["models"] and all(rows[name]["worth"]["claimed"] for name in present)
    metrics = QualityMetrics(
        overall_score=overall,
        **{field: scores[name] for name, field in _SCORES.items() if name in scores},
        artifact_reduction=round(failure.factor * sum(clean) / len(clean), 3),
        words={name: word_of(score) for name, score in (("overall", overall), *scores.items())},
        absent=absent,
        method=f"estimate v{VERSION} (calibration {content['hash']}), "
        + (f"validated on {content['made_on']}" if validated else "unvalidated"),
        validated=validated,
        low_confidence=duration_s < SHORT_S,
        advice=_advice(overall, model, quality),
    )
    return Estimate(metrics, (*map(_absence, absent), *failure.notes))


def _absent_stems(features: Mapping[str, Mapping[str, float]], sdr_db: Mapping[str, float]) -> tuple[str, ...]:
    """Return the stems that are much quieter than the mix and predicted to have hardly anything of the true stem."""
    return tuple(
        name for name, level_db in ABSENT_LEVEL_DB.items()
        if name in features and features[name]["level"] < level_db and sdr_db[name] < ABSENT_SDR_DB
    )  # fmt: skip


def _absence(stem: str) -> str:
    return f"No {stem} found: the file has only leakage of the other stems."


def _advice(overall: float, model: str, quality: Quality) -> str | None:
    if overall >= GATE:
        return None
    if model == "mini":
        return "Try another model: htdemucs, or htdemucs_ft."
    if model in ("melband_vocals", "best_of_both"):  # no other model separates vocals better
        return None if quality is Quality.BEST else "Try the quality best."
    if quality is not Quality.BEST:
        return "Try the quality best, or the model htdemucs_ft."
    return "Try another model: mdx_extra." if model == "htdemucs_ft" else "Try another model: htdemucs_ft."
