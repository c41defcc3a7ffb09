"""SDR and the scale-invariant scores of an estimate with a known reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]


def sdr_db(reference: Audio, estimate: Audio) -> float:
    """Return the global signal-to-distortion ratio over channels and time, in dB.

    This is the formula of the Music Demixing Challenge 2021 (arXiv:2108.13559). Both arrays have the same shape.
    """
    d = 1e-7
    truth = reference.astype(np.float64)
    distance = truth - estimate
    return float(10 * np.log10((np.sum(truth**2) + d) / (np.sum(distance**2) + d)))


def si_scores_db(references: NDArray[np.float32], index: int, estimate: Audio) -> tuple[float, float, float]:
    """Return (SI-SDR, SI-SIR, SI-SAR) of an estimate of `references[index]`, in dB (arXiv:1811.02508).

    `references` is (sources, channels, samples), `estimate` (channels, samples); channels and time form one vector.
    Scores are infinite without the error in question, and SI-SDR is minus infinity without any of the reference. All
    are NaN for a silent estimate or reference.
    """
    truth = references.reshape(len(references), -1).astype(np.float64)
    flat_estimate = estimate.reshape(-1).astype(np.float64)
    gram, products = truth @ truth.T, truth @ flat_estimate
    total = float(flat_estimate @ flat_estimate)
    audible = gram.diagonal() > 0
    if not audible[index] or total <= 0:
        return float("nan"), float("nan"), float("nan")
    target = float(products[index] ** 2 / gram[index, index])
    solution = np.linalg.lstsq(gram[np.ix_(audible, audible)], products[audible], rcond=None)[0]
    explained = min(total, max(target, float(products[audible] @ solution)))
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
