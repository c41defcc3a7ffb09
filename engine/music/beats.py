"""Beats at a known tempo: the path through the onsets that is both strong and even (Ellis, 2007)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.music.onsets import Envelope

_EVENNESS = 300.0
_STEADY_S = 0.03


def track_pulses(onsets: Envelope, frame_rate: float, bpm: float) -> NDArray[np.float64]:
    """Return the times of the pulses in seconds, from the beginning to the end."""
    period = 60 / bpm * frame_rate
    kernel = np.exp(-0.5 * np.square(np.arange(-6, 7) / 2.0))
    local = np.convolve(onsets, kernel / kernel.sum(), "same")
    local = local / (local.std() + 1e-9)
    nearest, farthest = max(1, int(period * 0.6)), int(np.ceil(period * 1.6))
    lags = np.arange(nearest, farthest + 1)
    cost = _EVENNESS * np.square(np.log(lags / period))
    count = len(local)
    score = np.concatenate([np.zeros(farthest), local])
    before = np.full(count, -1)
    for start in range(0, count, nearest):  # no predecessor of these frames is among them
        here = np.arange(start, min(start + nearest, count))
        reach = score[here[:, None] + farthest - lags] - cost
        best = np.argmax(reach, axis=1)
        before[here] = here - lags[best]
        score[here + farthest] += reach[np.arange(len(here)), best]
    end = count - int(np.ceil(period))
    at = max(0, end) + int(np.argmax(score[farthest + max(0, end) :]))
    path = []
    while at >= 0:
        path.append(at)
        at = int(before[at])
    return np.array(path[::-1]) / frame_rate


def straighten(pulses: NDArray[np.float64], duration_s: float) -> tuple[NDArray[np.float64], float]:
    """Return the pulses on an even grid if they are nearly on one, and how far they are from it in seconds."""
    number = np.arange(len(pulses))
    slope, offset = _robust_line(number, pulses)
    spread = float(np.median(np.abs(pulses - (slope * number + offset))))
    if spread > _STEADY_S or slope <= 0:
        return pulses, spread
    offset -= np.floor(offset / slope) * slope
    if slope - offset < 0.05:  # the first beat is at the very beginning
        offset -= slope
    return np.arange(offset, duration_s, slope), spread


def _robust_line(x: NDArray[np.int64], y: NDArray[np.float64]) -> tuple[float, float]:
    keep = np.ones(len(x), bool)
    slope = offset = 0.0
    for _ in range(4):
        slope, offset = np.polyfit(x[keep], y[keep], 1)
        miss = np.abs(y - (slope * x + offset))
        keep = miss <= max(2.5 * float(np.median(miss)), 0.01)
        if keep.sum() < 4:
            break
    return float(slope), float(offset)
