"""The shape of a stem: its peaks, for the player and for the picture on the result card (`draw`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.media.samples import Samples

BINS = 2000
SILENCE_PEAK = 10 ** (-60 / 20)
"""A bin, or a stem, whose peak stays below -60 dBFS is called silent."""


class Peaks:
    """Lowest, highest and mean power of a stem in each of `bins` equal stretches, gathered block by block."""

    def __init__(self, samples: int, bins: int = BINS) -> None:
        """`samples`: how many there will be."""
        self.samples = samples
        self.bins = max(1, min(bins, samples))
        self._edges = np.arange(self.bins + 1, dtype=np.int64) * samples // self.bins
        self.low: NDArray[np.float32] = np.zeros(self.bins, dtype=np.float32)
        self.high: NDArray[np.float32] = np.zeros(self.bins, dtype=np.float32)
        self._power: NDArray[np.float64] = np.zeros(self.bins, dtype=np.float64)
        self._at = 0

    def add(self, block: Samples) -> None:
        """The next float32 (channels, samples). What goes beyond `samples` is ignored."""
        block = block[:, : self.samples - self._at]
        count = block.shape[1]
        if not count:
            return
        first = int(np.searchsorted(self._edges, self._at, side="right")) - 1
        last = int(np.searchsorted(self._edges, self._at + count, side="left"))
        starts = np.maximum(self._edges[first:last] - self._at, 0)
        here = slice(first, last)
        self.low[here] = np.minimum(self.low[here], np.minimum.reduceat(block.min(axis=0), starts))
        self.high[here] = np.maximum(self.high[here], np.maximum.reduceat(block.max(axis=0), starts))
        self._power[here] += np.add.reduceat(np.square(block, dtype=np.float64).mean(axis=0), starts)
        self._at += count

    @property
    def rms(self) -> NDArray[np.float32]:
        """Root mean square of each bin."""
        return np.sqrt(self._power / np.maximum(np.diff(self._edges), 1)).astype(np.float32)

    @property
    def peak(self) -> float:
        return float(max(self.high.max(), -self.low.min()))

    @property
    def level(self) -> float:
        """Root mean square of the whole."""
        return float(np.sqrt(self._power.sum() / max(self.samples, 1)))

    @property
    def silence_share(self) -> float:
        """The share of bins that are silent, 0 to 1."""
        return float(np.mean(np.maximum(self.high, -self.low) < SILENCE_PEAK))

    def as_json(self, gain: float = 1.0) -> dict[str, Any]:
        """For the player, `gain` applied: {"bins": n, "low": [-127…0], "high": [0…127]}."""
        return {
            "bins": self.bins,
            "low": np.rint(np.maximum(self.low * gain, -1) * 127).astype(int).tolist(),
            "high": np.rint(np.minimum(self.high * gain, 1) * 127).astype(int).tolist(),
        }
