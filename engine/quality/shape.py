"""The shape of each stem in frequency and time, by which failures are noticed.

All features are ratios, and so independent of the song's gain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Spectra = NDArray[np.float32]
"""(stems, frames, bins)"""
Table = NDArray[np.float64]
"""(stems, bands)"""

FIRST_BINS = (1, 5, 10, 19, 38, 75, 149, 298)
"""Bounds of the bands: about an octave each, from 107 Hz up, for windows of 2048 samples at 44.1 kHz."""
_LIMIT_DB = 40.0


class ShapeMeter:
    """Add up what the features need."""

    def __init__(self) -> None:
        self._sums: dict[str, Table] = {}
        self._products: Table = np.zeros(())  # (stems, stems)
        self._frames = 0

    def add(self, power: Spectra, magnitude: Spectra, change: Spectra) -> None:
        """Add frames; `change` is the change of the magnitude from frame to frame."""
        energy = np.add.reduceat(power, FIRST_BINS, axis=2)  # (stems, frames, bands)
        ripple = np.abs(np.diff(magnitude, axis=2, prepend=0)).sum(1)
        for name, value in (
            ("energy", energy.sum(1)),
            ("squared", np.square(energy, dtype=np.float64).sum(1)),
            ("magnitude", np.add.reduceat(magnitude.sum(1), FIRST_BINS, axis=1)),
            ("change", np.add.reduceat(change.sum(1), FIRST_BINS, axis=1)),
            ("ripple", np.add.reduceat(ripple, FIRST_BINS, axis=1)),
        ):
            self._sums[name] = self._sums.get(name, 0) + value.astype(np.float64)
        envelope = np.sqrt(energy).reshape(len(energy), -1).astype(np.float64)
        self._products = self._products + np.einsum("ik,jk->ij", envelope, envelope)
        self._frames += power.shape[1]

    def features(self) -> list[dict[str, float]]:
        """Return the features of each stem."""
        energy = self._sums["energy"]
        columns = {
            "share": _db(energy, energy.sum(1, keepdims=True)),  # of the stem's energy
            "pulse": _db(self._sums["squared"] * self._frames, energy**2),  # high for short sounds
            "steadiness": _db(self._sums["magnitude"], self._sums["change"]),
            "tone": _db(self._sums["ripple"], self._sums["magnitude"]),  # high for narrow peaks
        }
        return [
            {f"{name} {band}": float(value) for name, rows in columns.items() for band, value in enumerate(rows[stem])}
            for stem in range(len(energy))
        ]

    def likeness(self) -> Table:
        """Return how alike the spectra of two stems are in every moment, 0 to 1, for all pairs."""
        norms = np.sqrt(self._products.diagonal()) + 1e-30
        return np.asarray(self._products / (norms[:, None] * norms))


def _db(over: Table, under: Table) -> Table:
    ratio_db: Table = 10 * (np.log10(over + 1e-30) - np.log10(under + 1e-30))
    return ratio_db.clip(-_LIMIT_DB, _LIMIT_DB)
