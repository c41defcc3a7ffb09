"""unblend 1.0, where it can be imported, on the same weights: what a user in a hurry would run instead."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from bench.networks import HTDEMUCS, RATE, SOURCES

Separate = Callable[[list[Tensor]], list[Tensor]]
"""Mixes (2, samples) in; (stems, 2, samples) out, on the CPU."""


def is_here() -> bool:
    return importlib.util.find_spec("unblend") is not None


def unblend_way(weights: dict[str, Tensor], device: str) -> Separate:
    """Its settings for speed: compiled with CUDA graphs on a GPU (it has no such thing for a CPU)."""
    unblend = importlib.import_module("unblend.api")
    network = importlib.import_module("unblend.htdemucs").HTDemucs(SOURCES, **HTDEMUCS)
    network.load_state_dict(weights)
    separator = unblend.Separator(network, device=device, compile=device != "cpu")

    def separate(mixes: list[Tensor]) -> list[Tensor]:
        found = separator.separate([(mix, RATE) for mix in mixes], shifts=0)
        return [torch.stack([each.sources[name].cpu().float() for name in SOURCES]) for each in found]

    return separate
