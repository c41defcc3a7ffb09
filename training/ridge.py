"""Ridge regression on standardised features, and the figures that tell what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
REACH = 3.0
"""Standardised features are cut at this: what lies further out than anything seen says nothing more."""


@dataclass(frozen=True)
class Ridge:
    """prediction = intercept + Σ weight · clip((x − mean) / scale, ±`REACH`); a missing feature (NaN) counts as its
    mean."""

    mean: Vector
    scale: Vector
    weights: Vector
    intercept: float

    def __call__(self, x: Matrix) -> Vector:
        return np.asarray(self.intercept + standardised(x, self.mean, self.scale) @ self.weights)


def standardised(x: Matrix, mean: Vector, scale: Vector) -> Matrix:
    return np.clip(np.nan_to_num((x - mean) / scale), -REACH, REACH)


def fit(x: Matrix, y: Vector, importance: Vector, penalty: float) -> Ridge:
    """`penalty` is in units of the rows' total importance."""
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
    """1 … n; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def spearman(a: Vector, b: Vector) -> float:
    """Rank correlation; NaN where one of the two is constant."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else float("nan")


def interval(a: Vector, b: Vector, groups: Sequence[str], draws: int = 1000) -> tuple[float, float]:
    """95 % of the rank correlation when whole groups (songs) are drawn again."""
    rng = np.random.default_rng(0)
    names = sorted(set(groups))
    places = [np.flatnonzero(np.array(groups) == name) for name in names]
    found = []
    for _ in range(draws):
        rows = np.concatenate([places[i] for i in rng.integers(len(names), size=len(names))])
        found.append(spearman(a[rows], b[rows]))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)
