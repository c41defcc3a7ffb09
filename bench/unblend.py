"""unblend 1.0, if installed, on the same weights."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from bench.networks import HTDEMUCS, RATE, SOURCES

Separate = Callable[[list[Tensor]], list[Tensor]]
"""(mixes of `(2, samples)`) to stems of `(stems, 2, samples)`, on the CPU."""


def is_installed() -> bool:
    return importlib.util.find_spec("unblend") is not None


def unblend_separate(weights: dict[str, Tensor], device: str) -> Separate:
    """Return its separation with its fastest settings: compiled with CUDA graphs on a GPU."""
    unblend = importlib.import_module("unblend.api")
    network = importlib.import_module("unblend.htdemucs").HTDemucs(SOURCES, **HTDEMUCS)
    network.load_state_dict(weights)
    separator = unblend.Separator(network, device=device, compile=device != "cpu")

    def separate(mixes: list[Tensor]) -> list[Tensor]:
        found = separator.separate([(mix, RATE) for mix in mixes], shifts=0)
        return [torch.stack([each.sources[name].cpu().float() for name in SOURCES]) for each in found]

    return separate
