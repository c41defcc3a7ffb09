"""An offset that drifts or jumps: means of the mix over one second, and the curve through them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class SlowMeans:
    """Means of each channel around every half second, weighted by Hann windows of one second.

    Music above 2 Hz leaves next to nothing in them. Windows that reach beyond the mix do not count.
    """

    def __init__(self, channels: int, samples: int, sample_rate: int) -> None:
        """Take `samples` in all, by `add`."""
        self.hop_samples = sample_rate // 2
        self._whole = samples // self.hop_samples - 1  # windows within the mix
        self._sums = torch.zeros(channels, -(-samples // self.hop_samples) + 1, dtype=torch.float64)
        self._falling = _falling_half(self.hop_samples)

    def add(self, start: int, block: Tensor) -> None:
        """Add the samples (channels, n) from `start` on."""
        first, before = divmod(start, self.hop_samples)
        after = -(before + block.shape[1]) % self.hop_samples
        hops = torch.nn.functional.pad(block.double(), (before, after)).view(len(block), -1, self.hop_samples)
        count = hops.shape[1]
        self._sums[:, first : first + count] += hops @ self._falling
        self._sums[:, first + 1 : first + 1 + count] += hops @ (1 - self._falling)

    def means(self) -> Tensor | None:
        """Return (channels, count) for the edges of all half seconds; None for a mix shorter than one second."""
        if self._whole < 1:
            return None
        count = self._sums.shape[1]
        whole = self._sums[:, 1 : 1 + self._whole] / self.hop_samples
        return torch.nn.functional.pad(whole[None], (1, count - 1 - self._whole), mode="replicate")[0]


class OffsetCurve:
    """The smooth curve through means at the edges of half seconds."""

    def __init__(self, means: Tensor, hop_samples: int) -> None:
        self.means = means
        self._hop_samples = hop_samples
        self._falling = _falling_half(hop_samples)

    def read(self, start: int, stop: int) -> Tensor:
        """Return (channels, stop - start)."""
        first, last = start // self._hop_samples, -(-stop // self._hop_samples)
        before, after = self.means[:, first:last, None], self.means[:, first + 1 : last + 1, None]
        curve = (after + (before - after) * self._falling).flatten(1)
        return curve[:, start - first * self._hop_samples : stop - first * self._hop_samples].float()


def _falling_half(samples: int) -> Tensor:
    """Return the second half of a Hann window; it and its reverse add up to 1."""
    turns = torch.arange(samples, dtype=torch.float64) / samples
    return (1 + torch.cos(math.pi * turns)) / 2
