"""Resample in blocks, with the same result as julius: any range is made from only the input it needs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from julius.resample import ResampleFrac
from torch import Tensor

_KERNEL_NUMBERS = 1 << 24  # larger kernels of julius (every phase at full length) would take more than 64 MiB

Read = Callable[[int, int], Tensor]
"""(start, stop) → (channels, stop - start) of the input."""


class Resampler:
    """Convert from one sample rate to another.

    `read` returns the same samples as that range of `julius.resample_frac(whole, from_rate, to_rate)`.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        common = math.gcd(from_rate, to_rate)
        self._old, self._new = from_rate // common, to_rate // common
        self._kernels: Tensor | None = None
        rate = min(self._old, self._new) * 0.945
        self._width = math.ceil(24 * self._old / rate)  # 24 zero crossings on either side
        if self._old != self._new and self._new * (2 * self._width + self._old) <= _KERNEL_NUMBERS:
            kernels = ResampleFrac(self._old, self._new).kernel
            assert isinstance(kernels, Tensor)
            self._kernels = kernels

    def samples(self, input_samples: int) -> int:
        """Return the length of the output."""
        return self._new * input_samples // self._old

    def read(self, read: Read, input_samples: int, start: int, stop: int) -> Tensor:
        """Return (channels, stop - start) of the output; `read` provides the input."""
        if self._old == self._new:
            return read(start, stop)
        first = start // self._new  # a frame: `old` samples in, `new` samples out
        last = -(-stop // self._new)
        inner = self._padded_input(read, input_samples, first * self._old - self._width, last * self._old + self._width)
        if self._kernels is None:
            return self._directly(inner, first, start, stop)
        frames = torch.nn.functional.conv1d(inner[:, None], self._kernels, stride=self._old)
        out = frames.transpose(1, 2).reshape(inner.shape[0], -1)
        return out[:, start - first * self._new : stop - first * self._new]

    def _padded_input(self, read: Read, input_samples: int, start: int, stop: int) -> Tensor:
        """Return the input from `start` to `stop`; its first and last sample are repeated outside it."""
        inner_start = min(max(0, start), input_samples - 1)
        inner_stop = max(min(stop, input_samples), inner_start + 1)
        inner = read(inner_start, inner_stop)
        left, right = max(0, inner_start - start), max(0, stop - inner_stop)
        return torch.nn.functional.pad(inner[None], (left, right), mode="replicate")[0]

    def _directly(self, inner: Tensor, first: int, start: int, stop: int) -> Tensor:
        """Resample with a kernel per output sample, for rates with hardly a common divisor."""
        out = np.empty((inner.shape[0], stop - start), dtype=np.float32)
        signal = inner.numpy()
        rate = min(self._old, self._new) * 0.945
        reach = math.ceil(24 * self._old / rate) + 1
        offsets = np.arange(-reach, reach + 1)
        for begin in range(start, stop, 1 << 14):
            j = np.arange(begin, min(begin + (1 << 14), stop))
            centre = j * self._old // self._new
            taps = centre[:, None] + offsets
            # distance of a tap from the output sample in units of `rate`, as in julius
            t = np.clip((taps / self._old - (j / self._new)[:, None]) * rate, -24, 24) * math.pi
            kernel = np.sinc(t / math.pi) * np.cos(t / 48) ** 2
            kernel /= kernel.sum(axis=1, keepdims=True)
            places = np.clip(taps - (first * self._old - self._width), 0, signal.shape[1] - 1)
            out[:, begin - start : begin - start + len(j)] = np.einsum("cjt,jt->cj", signal[:, places], kernel)
        return torch.from_numpy(out)
