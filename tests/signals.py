"""Noise that is the same every time, and how far two signals are apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def snr_db(expected: Tensor, found: Tensor) -> float:
    error = (expected.double() - found.double()).square().sum()
    return math.inf if error == 0 else 10 * math.log10(float(expected.double().square().sum() / error))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(math.prod(shape)))
