"""Demucs' STFT and its inverse, with the values of `_spec` and `_ispec` of `HTDemucs` and `HDemucs`.

Unlike these it skips the frames that they discard, the checks that wait for a GPU, and recreating the window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_TILE = (16, 256)  # frames and bins


class Spectrum:
    """STFT of windows of one length on one device. `old`: the padding of the first MDX models (`hybrid_old`)."""

    def __init__(self, *, fft_samples: int, length: int, old: bool, device: torch.device) -> None:
        self.fft_samples = fft_samples
        self.hop = fft_samples // 4
        self.length = length
        self.frames = math.ceil(length / self.hop)
        self._old = old
        self._pad = self.hop // 2 * 3
        window = torch.hann_window(fft_samples)
        # offset of the output in the padded signal (two empty frames on either side)
        begin = fft_samples // 2 + (0 if old else self._pad)
        envelope = torch.zeros((self.frames + 4 + 3) * self.hop)
        for frame in range(self.frames + 4):
            envelope[frame * self.hop : frame * self.hop + fft_samples] += window**2
        self._begin = begin - 2 * self.hop
        self._window = window.to(device)
        self._scale = (1 / envelope[begin : begin + length].clamp_min(1e-11)).to(device)
        self._unit: Tensor | None = None  # the signal of a spectrum of ones

    def analyse(self, mix: Tensor) -> Tensor:
        """Map (batch, channels, length) to real (batch, channels * 2, bins, frames).

        Real and imaginary parts alternate as channels; the Nyquist bin is omitted.
        """
        batch, channels, length = mix.shape
        padded = self._padded(mix, self._pad, self._pad + self.frames * self.hop - length)
        frames = padded.unfold(-1, self.fft_samples, self.hop) * self._window
        spectrum = torch.view_as_real(torch.fft.rfft(frames, norm="ortho")[..., :-1])
        # (batch, channels, frames, bins, 2)
        return spectrum.permute(0, 1, 4, 3, 2).reshape(batch, channels * 2, -1, self.frames)

    def synthesise(self, parts: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """Map `parts * scale + offset` (batch, stems, channels * 2, bins, frames) to (batch, stems, channels, length).

        `scale` and `offset`: (batch,), applied to the signal, which has a quarter of the spectrum's values.
        """
        batch, stems, doubled, _, _ = parts.shape
        signal = self._signal(parts.flatten(0, 2)).view(batch, stems, doubled // 2, self.length)
        if self._unit is None:
            self._unit = self._signal(parts.new_ones(2, *parts.shape[3:]))[0]
        return torch.addcmul(signal * scale.view(-1, 1, 1, 1), self._unit, offset.view(-1, 1, 1, 1))

    def _signal(self, parts: Tensor) -> Tensor:
        """Map (signals * 2, bins, frames) to (signals, length)."""
        _, bins, frames = parts.shape
        pairs = parts.view(-1, 2, bins, frames).permute(0, 3, 2, 1)
        spectrum = torch.empty(len(pairs), frames, bins + 1, 2, device=parts.device)
        if pairs.stride(3) == 1:  # the layout that `network.layers` leaves for a batch of one
            _copy_in_tiles(torch.view_as_complex(pairs), torch.view_as_complex(spectrum)[..., :bins])
        else:
            for part in (0, 1):
                spectrum[..., :bins, part] = pairs[..., part]
        spectrum[..., bins, :] = 0
        pieces = torch.fft.irfft(torch.view_as_complex(spectrum), n=self.fft_samples, norm="ortho").mul_(self._window)
        pieces = pieces.view(-1, frames, 4, self.hop)
        summed = pieces.new_zeros(pieces.shape[0], frames + 4, self.hop)
        for quarter in range(4):
            summed[:, quarter : quarter + frames] += pieces[:, :, quarter]
        signal: Tensor = summed.flatten(1)[:, self._begin : self._begin + self.length]
        return signal * self._scale

    def _padded(self, mix: Tensor, left: int, right: int) -> Tensor:
        if self._old:
            return F.pad(mix, (left, right))
        # a reflection needs more samples than it adds: very short mixes get zeros first, as in `demucs.hdemucs.pad1d`
        missing = max(left, right) - mix.shape[-1] + 1
        if missing > 0:
            zeros_right = min(right, missing)
            zeros_left = missing - zeros_right
            mix = F.pad(mix, (zeros_left, zeros_right))
            left, right = left - zeros_left, right - zeros_right
        return F.pad(mix, (left, right), mode="reflect")


def _copy_in_tiles(source: Tensor, into: Tensor) -> None:
    """Copy (signals, frames, bins) between transposed memory layouts in tiles that fit the cache."""
    for frame in range(0, source.shape[1], _TILE[0]):
        for bin_ in range(0, source.shape[2], _TILE[1]):
            tile = (slice(None), slice(frame, frame + _TILE[0]), slice(bin_, bin_ + _TILE[1]))
            into[tile] = source[tile]
