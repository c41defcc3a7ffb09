"""How near an estimate is to the truth, where the truth is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]


def sdr_db(reference: Audio, estimate: Audio) -> float:
    """Global signal-to-distortion ratio of two arrays of one shape, over channels and time (the formula of the Music
    Demixing Challenge 2021, arXiv:2108.13559)."""
    d = 1e-7
    truth = reference.astype(np.float64)
    distance = truth - estimate
    return float(10 * np.log10((np.sum(truth**2) + d) / (np.sum(distance**2) + d)))


def si_scores_db(references: NDArray[np.float32], index: int, estimate: Audio) -> tuple[float, float, float]:
    """Scale-invariant (SI-SDR, SI-SIR, SI-SAR) of an estimate of `references[index]`, in dB (arXiv:1811.02508).

    `references` (sources, channels, samples), `estimate` (channels, samples); channels and time are one long vector.
    Infinite where nothing is wrong, and SI-SDR minus infinity where nothing is right; NaN only for a silent estimate
    or reference.
    """
    truth = references.reshape(len(references), -1).astype(np.float64)
    guess = estimate.reshape(-1).astype(np.float64)
    gram, seen = truth @ truth.T, truth @ guess
    total = float(guess @ guess)
    heard = gram.diagonal() > 0
    if not heard[index] or total <= 0:
        return float("nan"), float("nan"), float("nan")
    target = float(seen[index] ** 2 / gram[index, index])
    solution = np.linalg.lstsq(gram[np.ix_(heard, heard)], seen[heard], rcond=None)[0]
    explained = min(total, max(target, float(seen[heard] @ solution)))
    return (
        _ratio_db(target, total - target, total),
        _ratio_db(target, explained - target, total),
        _ratio_db(explained, total - explained, total),
    )


def _ratio_db(over: float, under: float, total: float) -> float:
    rounding = 1e-14 * total
    if under <= rounding:
        return float("inf")
    return float(10 * np.log10(over / under)) if over > rounding else float("-inf")
