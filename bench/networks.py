"""Networks of the published sizes with random weights, music-like noise, and stock Demucs as the reference."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from demucs.apply import BagOfModels, apply_model
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from demucs.transformer import LayerScale
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from engine.separation.models.loaded_model import LoadedModel
from engine.separation.schedule.batcher import Batcher
from training.model import write_hub_files

SOURCES = ["drums", "bass", "other", "vocals"]
RATE = 44100
HTDEMUCS: dict[str, Any] = {
    "channels": 48,
    "bottom_channels": 512,
    "t_layers": 5,
    "dconv_mode": 3,
    "dconv_comp": 8,
    "segment": Fraction(39, 5),
}


def htdemucs() -> HTDemucs:
    """Return a network with 41,984,456 parameters, like the published one."""
    torch.manual_seed(0)
    network: HTDemucs = HTDemucs(SOURCES, **HTDEMUCS)
    awaken(network)
    return network.eval()


def awaken(network: nn.Module) -> None:
    """Set the layer scales to 0.5, as in a trained network.

    The initial scales of 1e-4 would hide errors of the residual branches and the transformer.
    """
    for module in network.modules():
        if isinstance(module, LayerScale):
            module.scale.data.fill_(0.5)


TINY: dict[str, Any] = {
    "channels": 4,
    "growth": 1,
    "depth": 3,
    "nfft": 2048,
    "t_layers": 0,
    "dconv_mode": 0,
    "segment": Fraction(39, 5),
}


def tiny(**changes: Any) -> HTDemucs:
    """Return a very cheap network."""
    torch.manual_seed(0)
    network: HTDemucs = HTDemucs(SOURCES, **{**TINY, **changes})
    return network.eval()


def write_tiny(folder: Path, name: str) -> None:
    """Write `tiny()` as a file of the operator's models folder."""
    write_hub_files(tiny().state_dict(), folder, name, {"sources": SOURCES, **TINY})


def write_htdemucs(folder: Path, name: str) -> None:
    """Write `htdemucs()` as a file of the operator's models folder."""
    write_hub_files(htdemucs().state_dict(), folder, name, {"sources": SOURCES, **HTDEMUCS})


def flops_of(network: nn.Module, samples: int) -> int:
    """Return the floating-point operations of products, convolutions and attention of one pass over `(2, samples)`.

    In training mode the transformer takes the code path that torch's counter supports.
    """
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def count(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    was_training = network.training
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={attention: count}) as counter:
        network.train()(torch.zeros(1, 2, samples))
    network.train(was_training)
    return int(counter.get_total_flops())


def best_flops_per_s() -> float:
    """Return the most floating-point operations per CPU second, of a large matrix product or convolution."""
    left = torch.randn(2048, 2048)
    image, weight = torch.randn(1, 384, 8, 336), torch.randn(768, 384, 3, 3)
    products: list[tuple[int, Callable[[], Tensor]]] = [
        (2 * 2048**3, lambda: torch.mm(left, left)),
        (2 * 768 * 384 * 9 * 8 * 336, lambda: torch.conv2d(image, weight, padding=1)),
    ]
    best = 0.0
    for flops, product in products:
        product()
        for _ in range(5):
            began = time.process_time()
            product()
            best = max(best, flops / (time.process_time() - began))
    return best


def mdx_extra() -> BagOfModels:
    """Return four Hybrid Demucs networks with segments of 44 s."""
    torch.manual_seed(0)
    members = [HDemucs(SOURCES, channels=48).eval() for _ in range(4)]
    for member in members:
        awaken(member)
    return BagOfModels(members, segment=44)


def song(seconds: float, seed: int = 0) -> Tensor:
    """Return normalised noise in bursts: `(2, samples)`."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, int(seconds * RATE), generator=generator)
    envelope = 0.3 + torch.rand(1, math.ceil(seconds * 4) + 1, generator=generator)
    noise = noise * torch.nn.functional.interpolate(envelope[None], noise.shape[-1], mode="linear")[0]
    return (noise - noise.mean()) / noise.std()


def snr_db(expected: Tensor, found: Tensor) -> float:
    """Return the SNR of the worst stem; both are `(stems, channels, samples)`."""
    error = (expected.double() - found.double()).square().sum((1, 2))
    return float((10 * torch.log10(expected.double().square().sum((1, 2)) / error.clamp_min(1e-300))).min())


def stock(network: nn.Module, mix: Tensor, device: str = "cpu", *, shifts: int = 0, overlap: float = 0.25) -> Tensor:
    """Separate with `demucs.apply.apply_model`: `(stems, channels, samples)`."""
    random.seed(0)
    out: Tensor = apply_model(network, mix[None], shifts=shifts, overlap=overlap, device=device)[0]  # type: ignore[arg-type]
    return out


class MemoryMix:
    """A mix in memory, and a sink that keeps or drops the stems."""

    def __init__(self, mix: Tensor, *, keep: bool = True) -> None:
        self.samples = mix.shape[-1]
        self._mix = mix
        self._keep = keep
        self._blocks: list[Tensor] = []

    def read(self, start: int, stop: int) -> Tensor:
        return self._mix[:, start:stop]

    def write(self, start: int, stems: dict[str, Tensor]) -> None:
        if self._keep:
            self._blocks.append(torch.stack(list(stems.values())))

    def stems(self) -> Tensor:
        return torch.cat(self._blocks, dim=-1)


def ours(batcher: Batcher, model: LoadedModel, mix: Tensor, *, stems: Sequence[str] = SOURCES) -> Tensor:
    """Separate with our batcher, without shifts: `(stems, channels, samples)`."""
    memory = MemoryMix(mix)
    batcher.run(model, memory, memory, stems=stems, shifts=0, overlap=0.25, seed=0)
    return memory.stems()
