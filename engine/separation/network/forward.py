"""Run one forward pass: the same result as `member(windows)` with less overhead.

Constants that stock Demucs creates in each pass (windows, positional embeddings) are cached, attention uses
`scaled_dot_product_attention`, and nothing waits for the device. The module is not changed. Members of an unusual
architecture run their own forward pass.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from demucs.transformer import CrossTransformerEncoder, create_2d_sin_embedding, create_sin_embedding
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.separation.native import ops as native_ops
from engine.separation.native.library import NativeLibrary, OpsSwitch
from engine.separation.network import layers
from engine.separation.network.spectrum import Spectrum
from engine.separation.network.transformer import cross_attention_layer, self_attention_layer
from engine.separation.ops.device import is_eager_on_cpu
from engine.separation.ops.torch_ops import TORCH, TorchOps

_create_grid: Callable[..., Tensor] = create_2d_sin_embedding
_create_line: Callable[..., Tensor] = create_sin_embedding


class Forward(Protocol):
    """A network's forward pass. Thread-safe on a CPU."""

    def __call__(self, windows: Tensor) -> Tensor:
        """Map (batch, channels, samples) to (batch, stems, channels, samples)."""


def forward_of(member: nn.Module, native: NativeLibrary | None = None) -> Forward:
    """Return the fastest faithful way to run `member` on the device of its weights.

    `native`: the native library, for a member on the CPU.
    """
    if isinstance(member, HTDemucs) and _is_common_transformer(member):
        window = int(member.segment * member.samplerate) if member.use_train_segment else None
        core: HybridCore = TransformerCore(member)
        return HybridForward(member, core, window_samples=window, switch=_switch(member, native))
    if isinstance(member, HDemucs) and member.hybrid and member.cac:
        core = HybridCore(member)
        return HybridForward(member, core, old=member.hybrid_old, switch=_switch(member, native))
    return StockForward(member)


def _switch(member: Any, native: NativeLibrary | None) -> OpsSwitch | None:
    if native is None or not native_ops.suits(member):
        return None
    return OpsSwitch(partial(native.ops_for, member), native.end_first_pass)


def _is_common_transformer(member: Any) -> bool:
    transformer = member.crosstransformer
    if not member.cac:
        return False
    if transformer is None:
        return True
    sparse = any(layer.sparse for layer in (*transformer.layers, *transformer.layers_t))
    return transformer.emb == "sin" and transformer.sin_random_shift == 0 and not sparse


class StockForward:
    """The module's own forward pass."""

    def __init__(self, member: nn.Module) -> None:
        self._member = member

    def __call__(self, windows: Tensor) -> Tensor:
        with torch.no_grad():
            stems: Tensor = self._member(windows)
        return stems


class HybridForward:
    """STFT, core and inverse STFT of HTDemucs and HDemucs."""

    def __init__(
        self,
        member: Any,
        core: HybridCore,
        *,
        window_samples: int | None = None,
        old: bool = False,
        switch: OpsSwitch | None = None,
    ) -> None:
        """`window_samples`: the fixed length of the network's input; shorter windows are padded with zeros."""
        self.core = core
        self._switch = switch
        self._member = member
        self._window_samples = window_samples
        self._old = old
        self._spectra: dict[int, Spectrum] = {}

    def __call__(self, windows: Tensor) -> Tensor:
        with torch.no_grad():
            samples = windows.shape[-1]
            if self._window_samples is not None and samples < self._window_samples:
                windows = F.pad(windows, (0, self._window_samples - samples))
            spectrum = self._spectrum(windows)
            parts, mean, std = normed(spectrum.analyse(windows))
            parts, waves = self._run_core(parts, windows)
            return spectrum.synthesise(parts, std, mean).add_(waves)[..., :samples]

    def constants(self) -> tuple[object, ...]:
        """Return the cached tensors, which later passes may replace."""
        return tuple(self._spectra.values())

    def compiled(self) -> HybridForward:
        """Return a copy whose core is compiled by torch.compile, for one shape.

        The first pass must have run: what it caches must not be compiled.
        """
        core: Any = torch.compile(self.core, dynamic=False)
        compiled = copy.copy(self)
        compiled.core = core
        return compiled

    def _run_core(self, spectrum: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        ops = self._switch() if self._switch is not None else None
        began = time.perf_counter()
        try:
            found: tuple[Tensor, Tensor] = self.core(spectrum, windows, ops or TORCH)
        finally:
            if self._switch is not None:
                self._switch.record_pass(ops, time.perf_counter() - began)
        return found

    def _spectrum(self, windows: Tensor) -> Spectrum:
        length = windows.shape[-1]
        spectrum = self._spectra.get(length)
        if spectrum is None:
            if len(self._spectra) > 8:  # last segments have arbitrary lengths
                self._spectra.clear()
            spectrum = Spectrum(fft_samples=self._member.nfft, length=length, old=self._old, device=windows.device)
            self._spectra[length] = spectrum
        return spectrum


def normed(spectrum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise a spectrum (batch, …, frames) in place; return it with its mean and deviation (batch,).

    `torch.std_mean` over this many values would use a single thread on a CPU.
    """
    shape = (-1, *(1 for _ in spectrum.shape[1:]))
    mean = spectrum.flatten(1).mean(1)
    spectrum = spectrum.sub_(mean.view(shape))
    rows = torch.linalg.vector_norm(spectrum, dim=-1)
    std = torch.linalg.vector_norm(rows.flatten(1), dim=1) / math.sqrt(max(1, spectrum[0].numel() - 1))
    return spectrum.mul_(1 / (1e-5 + std.view(shape))), mean, std


class HybridCore(nn.Module):
    """HDemucs without its transforms and the normalisation of its spectrum."""

    def __init__(self, member: Any) -> None:
        super().__init__()
        self.member = member
        self.stems = len(member.sources)

    def forward(self, x: Tensor, mix: Tensor, ops: TorchOps = TORCH) -> tuple[Tensor, Tensor]:
        """Return the stems as spectra and as waveforms.

        x: normalised spectrum (batch, 2 * channels, bins, frames); mix: (batch, channels, samples). Results:
        (batch, stems, 2 * channels, bins, frames), still normalised, and (batch, stems, channels, samples).
        """
        member = self.member
        batch, _, bins, frames = x.shape
        mean_t = mix.mean(dim=(1, 2), keepdim=True)
        std_t = mix.std(dim=(1, 2), keepdim=True)
        xt = (mix - mean_t) / (1e-5 + std_t)

        saved, saved_t, lengths, lengths_t = [], [], [], []
        for index, layer in enumerate(member.encoder):
            lengths.append(x.shape[-1])
            inject = None
            if index < len(member.tencoder):
                lengths_t.append(xt.shape[-1])
                layer_t = member.tencoder[index]
                xt = layers.encode(layer_t, xt, None, ops)
                if layer_t.empty:
                    inject = xt
                else:
                    saved_t.append(xt)
            x = layers.encode(layer, x, inject, ops)
            if index == 0 and member.freq_emb is not None:
                emb = member.freq_emb_scale * member.freq_emb.weight.t()[None, :, :, None]
                x = x.add_(emb) if is_eager_on_cpu(x) else x + emb
            saved.append(x)

        x, xt = self.middle(x, xt, ops)

        for index, layer in enumerate(member.decoder):
            x, before = layers.decode(layer, x, saved.pop(), lengths.pop(), ops)
            offset = member.depth - len(member.tdecoder)
            if index >= offset:
                layer_t = member.tdecoder[index - offset]
                if layer_t.empty:
                    xt, _ = layers.decode(layer_t, before[:, :, 0], None, lengths_t.pop(), ops)
                else:
                    xt, _ = layers.decode(layer_t, xt, saved_t.pop(), lengths_t.pop(), ops)

        x = x.view(batch, self.stems, -1, bins, frames)
        xt = xt.view(batch, self.stems, -1, mix.shape[-1]) * std_t[:, None] + mean_t[:, None]
        return x, xt

    def middle(self, x: Tensor, xt: Tensor, ops: TorchOps) -> tuple[Tensor, Tensor]:
        """Return zeros: HDemucs' decoder gets its input from the skip connections only."""
        return torch.zeros_like(x), torch.zeros_like(x)


class TransformerCore(HybridCore):
    """HTDemucs without its transforms."""

    def __init__(self, member: Any) -> None:
        super().__init__(member)
        self._positions: dict[tuple[object, ...], Tensor] = {}

    def middle(self, x: Tensor, xt: Tensor, ops: TorchOps) -> tuple[Tensor, Tensor]:
        member = self.member
        transformer = member.crosstransformer
        if transformer is None:
            return x, xt
        bins, frames = x.shape[2:]
        if member.bottom_channels:
            x = ops.mixed(member.channel_upsampler, x.flatten(2))
            x = x.view(*x.shape[:2], bins, frames)
            xt = ops.mixed(member.channel_upsampler_t, xt)
        x, xt = self._transform(transformer, x, xt, ops)
        if member.bottom_channels:
            x = ops.mixed(member.channel_downsampler, x.flatten(2))
            x = x.view(*x.shape[:2], bins, frames)
            xt = ops.mixed(member.channel_downsampler_t, xt)
        return x, xt

    def _transform(self, transformer: Any, x: Tensor, xt: Tensor, ops: TorchOps) -> tuple[Tensor, Tensor]:
        channels, bins, frames = x.shape[1:]
        x = transformer.norm_in(x.permute(0, 3, 2, 1).flatten(1, 2))  # (batch, frames * bins, channels)
        x = x + self._grid_positions(transformer, channels, bins, frames, x)
        xt = transformer.norm_in_t(xt.transpose(1, 2))
        xt = xt + self._line_positions(transformer, channels, xt.shape[1], xt)
        for index, (layer, layer_t) in enumerate(zip(transformer.layers, transformer.layers_t, strict=True)):
            if index % 2 == transformer.classic_parity:
                x, xt = self_attention_layer(layer, x, ops), self_attention_layer(layer_t, xt, ops)
            else:
                x, xt = (
                    cross_attention_layer(layer, x, xt, ops),
                    cross_attention_layer(layer_t, xt, x, ops),
                )
        x = x.view(-1, frames, bins, channels).permute(0, 3, 2, 1)
        return x, xt.transpose(1, 2)

    def _grid_positions(
        self, transformer: CrossTransformerEncoder, channels: int, bins: int, frames: int, like: Tensor
    ) -> Tensor:
        key = ("grid", channels, bins, frames, like.device, like.dtype)
        if key not in self._positions:
            grid = _create_grid(channels, bins, frames, "cpu", transformer.max_period)
            grid = grid.permute(0, 3, 2, 1).flatten(1, 2)
            self._positions[key] = (transformer.weight_pos_embed * grid).to(like)
        return self._positions[key]

    def _line_positions(self, transformer: CrossTransformerEncoder, channels: int, length: int, like: Tensor) -> Tensor:
        key = ("line", channels, length, like.device, like.dtype)
        if key not in self._positions:
            line = _create_line(length, channels, max_period=transformer.max_period)
            self._positions[key] = (transformer.weight_pos_embed * line.transpose(0, 1)).to(like)
        return self._positions[key]
