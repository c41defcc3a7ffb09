"""Change pitch and length together, by resampling blocks of stereo stems."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

from engine.media.samples import Samples

_RATE_UNIT = 100  # the resampler gets rates, but only their ratio matters


class Resampler:
    """Make blocks shorter by `ratio` (raising the pitch), each stem with its own resampler."""

    def __init__(self, stems: int, ratio: Fraction) -> None:
        self._rate_in, self._rate_out = ratio.numerator * _RATE_UNIT, ratio.denominator * _RATE_UNIT
        self._resamplers = [av.AudioResampler("fltp", "stereo", self._rate_out) for _ in range(stems)]

    def resample(self, block: Samples | None) -> Samples:
        """Resample the next block, or the end of the song (None); return (channels, n)."""
        parts = []
        for index, resampler in enumerate(self._resamplers):
            frame = None
            if block is not None:
                stem = np.ascontiguousarray(block[2 * index : 2 * index + 2])
                frame = av.AudioFrame.from_ndarray(stem, "fltp", "stereo")
                frame.sample_rate = self._rate_in
            frames = [each.to_ndarray() for each in resampler.resample(frame)]
            parts.append(np.concatenate(frames, axis=1) if frames else np.zeros((2, 0), np.float32))
        if len({part.shape[1] for part in parts}) > 1:
            raise MemoryError("a resampler gave nothing")
        return np.concatenate(parts)
