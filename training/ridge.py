"""Ridge regression on standardised features, and rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
REACH = 3.0
"""Standardised features are clipped at this, to limit extrapolation."""


@dataclass(frozen=True)
class Ridge:
    """Predict intercept + Σ weight · clip((x − mean) / scale, ±`REACH`); NaN features count as their mean."""

    mean: Vector
    scale: Vector
    weights: Vector
    intercept: float

    def __call__(self, x: Matrix) -> Vector:
        return np.asarray(self.intercept + standardised(x, self.mean, self.scale) @ self.weights)


def standardised(x: Matrix, mean: Vector, scale: Vector) -> Matrix:
    return np.clip(np.nan_to_num((x - mean) / scale), -REACH, REACH)


def fit(x: Matrix, y: Vector, importance: Vector, penalty: float) -> Ridge:
    """Fit a ridge regression; `penalty` is relative to the total importance of the rows."""
    mean = np.nanmean(x, axis=0)
    scale = np.nanstd(x, axis=0) + 1e-6
    z = standardised(x, mean, scale)
    total = importance.sum()
    middle, y_mean = importance @ z / total, float(importance @ y / total)
    centred = z - middle
    gram = (centred * importance[:, None]).T @ centred + penalty * total * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, (centred * importance[:, None]).T @ (y - y_mean))
    return Ridge(mean, scale, weights, y_mean - float(middle @ weights))


def ranks(values: Vector) -> Vector:
    """Return ranks from 1 to n; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def spearman(a: Vector, b: Vector) -> float:
    """Return the rank correlation; NaN if one input is constant."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else float("nan")


def interval(a: Vector, b: Vector, groups: Sequence[str], draws: int = 1000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the rank correlation, resampling whole groups (songs)."""
    rng = np.random.default_rng(0)
    names = sorted(set(groups))
    places = [np.flatnonzero(np.array(groups) == name) for name in names]
    found = []
    for _ in range(draws):
        rows = np.concatenate([places[i] for i in rng.integers(len(names), size=len(names))])
        found.append(spearman(a[rows], b[rows]))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)
