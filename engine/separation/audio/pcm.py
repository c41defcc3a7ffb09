"""Read the decoder's raw file as the model's input: resampled, in the model's channels, normalised."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from engine.errors import EmptyInput
from engine.separation.audio.drift import OffsetCurve, SlowMeans
from engine.separation.audio.resample import Resampler

_FRAME_BYTES = 4  # float32
_BLOCK_SAMPLES = 1 << 19
_SMALL_OFFSET = 0.001  # full scale is 1
_SMALL_SHARE = 0.01  # of the deviation: 40 dB below the song
_DRIFT_SHARE = 0.03  # of the deviation; the means over a second of ordinary songs stay below half of it


class PcmMix:
    """A raw file of interleaved little-endian float32, read in blocks. Thread-safe.

    Normalised by the deviation of the mean of its channels, as in stock Demucs (`demucs.api.Separator`). Unlike stock,
    the offset of each channel is removed: stock adds it to every stem, so the sum of the stems has it several times.
    The offset is the mean of the channel, or a slow curve if it drifts or jumps.
    """

    def __init__(
        self, path: Path, *, channels: int, sample_rate: int, model_rate: int = 44100, model_channels: int = 2
    ) -> None:
        """Read the whole file once to measure its level. Raises `EmptyInput`."""
        self.path = path
        self.sample_rate = model_rate
        self.channels = model_channels
        self._file_channels = channels
        self._file_samples = path.stat().st_size // (_FRAME_BYTES * channels)
        self._resampler = Resampler(sample_rate, model_rate)
        self.samples = self._resampler.samples(self._file_samples)
        if self.samples == 0:
            raise EmptyInput
        self._drift: OffsetCurve | None = None  # None: the offset is constant
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            slow_means = SlowMeans(self.channels, self.samples, model_rate)
            self.means, self.std = self._level(slow_means)
            if self._find_drift(slow_means):
                self.means, self.std = self._level()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self, start: int, stop: int) -> Tensor:
        """Return (channels, stop - start), normalised."""
        return (self._without_drift(start, stop) - self.means[:, None]) / self.std

    def without_offset(self, start: int, stop: int) -> Tensor:
        """Return the mix that the stems add up to: without the channels' offsets where they are significant."""
        mix = self._without_drift(start, stop)
        return mix - self.means[:, None] if self.offset else mix

    def plain(self, start: int, stop: int) -> Tensor:
        """Return (channels, stop - start), resampled and in the model's channels, at the original level."""
        mix = self._resampler.read(self._file_read, self._file_samples, start, stop)
        if mix.shape[0] == self.channels:
            return mix
        if self.channels == 1:
            return mix.mean(0, keepdim=True)
        return mix.expand(self.channels, -1) if mix.shape[0] == 1 else mix[: self.channels]

    @property
    def offset(self) -> float:
        """The largest offset of a channel; 0.0 if insignificant."""
        offsets = self.means[:, None] if self._drift is None else self.means[:, None] + self._drift.means
        largest = float(offsets.abs().max())
        return round(largest, 6) if largest > _SMALL_OFFSET or largest > _SMALL_SHARE * self.std else 0.0

    def _without_drift(self, start: int, stop: int) -> Tensor:
        mix = self.plain(start, stop)
        return mix if self._drift is None else mix - self._drift.read(start, stop)

    def _file_read(self, start: int, stop: int) -> Tensor:
        frame = _FRAME_BYTES * self._file_channels
        data = bytearray(os.pread(self._file, (stop - start) * frame, start * frame))
        samples = np.frombuffer(data, dtype="<f4").reshape(-1, self._file_channels)
        return torch.from_numpy(np.ascontiguousarray(samples.T, dtype=np.float32))

    def _find_drift(self, slow_means: SlowMeans) -> bool:
        """Return whether the offset is not constant; then remove what differs from its mean."""
        means = slow_means.means()
        if means is None:
            return False
        drift = means - self.means.double()[:, None]
        if float(drift.abs().max()) <= _DRIFT_SHARE * self.std:
            return False
        self._drift = OffsetCurve(drift, slow_means.hop_samples)
        return True

    def _level(self, slow_means: SlowMeans | None = None) -> tuple[Tensor, float]:
        """Return the mean of each channel, and the deviation of the mean of the channels.

        All blocks are added to `slow_means`.
        """
        # Relative to the first block's means: a large offset would cost the deviation its precision.
        around: Tensor | None = None
        totals, squares = torch.zeros(self.channels, dtype=torch.float64), 0.0
        for start in range(0, self.samples, _BLOCK_SAMPLES):
            block = self._without_drift(start, min(start + _BLOCK_SAMPLES, self.samples)).double()
            if slow_means is not None:
                slow_means.add(start, block)
            if around is None:
                around = block.mean(1)
            block -= around[:, None]
            totals += block.sum(1)
            squares += float(block.mean(0).square().sum())
        assert around is not None
        variance = max(0.0, squares - float(totals.mean()) ** 2 / self.samples) / max(1, self.samples - 1)
        return (around + totals / self.samples).float(), variance**0.5 + 1e-8
