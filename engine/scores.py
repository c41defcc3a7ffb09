"""How near an estimate is to the truth, where the truth is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sdr_db(reference: NDArray[np.float32], estimate: NDArray[np.float32]) -> float:
    """Global signal-to-distortion ratio of two arrays of one shape, over channels and time (the formula of the Music
    Demixing Challenge 2021, arXiv:2108.13559)."""
    d = 1e-7
    truth = reference.astype(np.float64)
    distance = truth - estimate
    return float(10 * np.log10((np.sum(truth**2) + d) / (np.sum(distance**2) + d)))
