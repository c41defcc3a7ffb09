"""Mel-Band RoFormer and BS-RoFormer: masks for the spectrum of the mix, from attention along time and along bands.

The two differ in their bands, in the place of some norms and in the depth of the perceptrons behind the masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.separation.network.roformer_layers import MaskEstimator, RMSNorm, Transformer, rotations

CHANNELS = 2
PARTS = 2 * CHANNELS  # real and imaginary part of each channel


@dataclass(frozen=True)
class RoFormerShape:
    """The sizes of a network. `window_samples`: the length of its input."""

    bands: tuple[range, ...]  # of STFT bins
    dim: int
    depth: int
    heads: int
    head_dim: int
    feed_forward: int
    stems: int
    mask_hidden: int
    mask_linears: int
    is_mel: bool
    window_samples: int
    fft_samples: int = 2048
    hop_samples: int = 441

    @property
    def bins(self) -> int:
        return self.fft_samples // 2 + 1

    @property
    def frames(self) -> int:
        return 1 + self.window_samples // self.hop_samples


class BandSplit(nn.Module):
    """A norm and a projection for each band."""

    def __init__(self, dim: int, widths: list[int]) -> None:
        super().__init__()
        self.to_features = nn.ModuleList(nn.Sequential(RMSNorm(width), nn.Linear(width, dim)) for width in widths)


class RoFormer(nn.Module):
    """Has the attributes of a demucs network that `LoadedModel` reads."""

    window: Tensor
    envelope: Tensor
    bands_of_bin: Tensor
    turns_in_time: Tensor
    turns_in_bands: Tensor

    def __init__(
        self,
        shape: RoFormerShape,
        sources: tuple[str, ...],
        sample_rate: int = 44100,
        *,
        rest: str | None = None,
        inverted: bool = False,
    ) -> None:
        """Create a network with random weights.

        `sources`: the names of the stems. `rest`: the name of the stem that is the mix without them, if there is one.
        `inverted`: the network computes that rest in place of its only source.
        """
        super().__init__()
        self.shape = shape
        self.sources = sources
        self.rest = rest
        self.inverted = inverted
        self.samplerate = sample_rate
        self.audio_channels = CHANNELS
        self.segment = Fraction(shape.window_samples, sample_rate)
        widths = [PARTS * len(band) for band in shape.bands]
        sizes = (shape.dim, shape.heads, shape.head_dim, shape.feed_forward)
        self.band_split = BandSplit(shape.dim, widths)
        self.layers = nn.ModuleList(
            nn.ModuleList(Transformer(*sizes, normed=shape.is_mel) for _ in ("time", "bands"))
            for _ in range(shape.depth)
        )
        self.final_norm = nn.Identity() if shape.is_mel else RMSNorm(shape.dim)
        self.mask_estimators = nn.ModuleList(
            MaskEstimator(shape.dim, shape.mask_hidden, shape.mask_linears, widths) for _ in range(shape.stems)
        )
        window = torch.hann_window(shape.fft_samples, device="cpu")
        self._add_constant("window", window)
        self._add_constant("envelope", self._overlapped(window.square()[None, None].expand(1, shape.frames, -1)))
        counts = torch.zeros(shape.bins, 1, device="cpu")
        for band in shape.bands:
            counts[band.start : band.stop] += 1
        self._add_constant("bands_of_bin", counts)
        self._add_constant("turns_in_time", rotations(shape.frames, shape.head_dim))
        self._add_constant("turns_in_bands", rotations(len(shape.bands), shape.head_dim))

    def _add_constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def valid_length(self, samples: int) -> int:
        """Return the length of the input for a segment: always a full window."""
        return self.shape.window_samples

    def forward(self, windows: Tensor) -> Tensor:
        """Map (batch, channels, samples) of a full window to (batch, stems, channels, samples)."""
        spectrum = self._analysed(windows)
        masks = self._masks(self._transformed(spectrum))
        masked = torch.view_as_complex(masks) * torch.view_as_complex(spectrum)[:, None]
        stems = self._synthesised(masked)
        return windows[:, None] - stems if self.inverted else stems

    def _analysed(self, windows: Tensor) -> Tensor:
        """Return the spectrum, (batch, frames, bins, channels, real and imaginary)."""
        half = self.shape.fft_samples // 2
        padded = F.pad(windows, (half, half), mode="reflect")
        frames = padded.unfold(-1, self.shape.fft_samples, self.shape.hop_samples) * self.window
        return torch.view_as_real(torch.fft.rfft(frames)).permute(0, 2, 3, 1, 4).contiguous()

    def _synthesised(self, spectrum: Tensor) -> Tensor:
        """Map (batch, stems, frames, bins, channels) to (batch, stems, channels, samples)."""
        batch = spectrum.shape[0]
        frames = torch.fft.irfft(spectrum.permute(0, 1, 4, 2, 3), n=self.shape.fft_samples)
        signal = self._overlapped((frames * self.window).flatten(0, 2)) / self.envelope
        return signal.view(batch, -1, CHANNELS, self.shape.window_samples)

    def _overlapped(self, frames: Tensor) -> Tensor:
        """Add (signals, frames, samples of a frame) at their places and cut out the window, (signals, samples)."""
        size, hop = self.shape.fft_samples, self.shape.hop_samples
        length = (frames.shape[1] - 1) * hop + size
        signal = F.fold(frames.transpose(1, 2), (1, length), (1, size), stride=(1, hop)).flatten(1)
        return signal[:, size // 2 : size // 2 + self.shape.window_samples]

    def _transformed(self, spectrum: Tensor) -> Tensor:
        """Return the features of all bands, (bands, batch, frames, dim)."""
        split = zip(self.shape.bands, self.band_split.to_features, strict=True)
        x = torch.stack([project(spectrum[:, :, band.start : band.stop].flatten(2)) for band, project in split]).float()
        by_band, by_frame = x.flatten(0, 1), x.flatten(1, 2).transpose(0, 1)  # views
        layers: Any = self.layers
        for in_time, in_bands in layers:
            in_time.run(by_band, self.turns_in_time)
            in_bands.run(by_frame, self.turns_in_bands)
        return x

    def _masks(self, x: Tensor) -> Tensor:
        """Return the masks, (batch, stems, frames, bins, channels, real and imaginary)."""
        _, batch, frames, _ = x.shape
        masks = x.new_zeros(batch, self.shape.stems, frames, self.shape.bins, PARTS)
        estimators: Any = self.mask_estimators
        for index, band in enumerate(self.shape.bands):
            features = self.final_norm(x[index])
            for stem, estimator in enumerate(estimators):
                part = estimator.to_freqs[index](features)
                masks[:, stem, :, band.start : band.stop] += part.view(batch, frames, len(band), PARTS)
        return masks.div_(self.bands_of_bin).view(*masks.shape[:-1], CHANNELS, 2)
