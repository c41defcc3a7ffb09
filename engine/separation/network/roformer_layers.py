"""The layers of the RoFormer networks, with the parameter names of the published checkpoints.

The transformers work in place. On a CPU they take a few sequences at a time through attention and feed-forward, so that
intermediate results stay in the cache and need little memory.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.separation.ops.device import is_eager_on_cpu

_TOKENS_AT_ONCE = 1024  # on a CPU
ROTARY_BASE = 10_000.0


class RMSNorm(nn.Module):
    """Scale vectors to the length √dim, times `gamma`; not `nn.RMSNorm`, whose epsilon changes quiet vectors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * (self.gamma * math.sqrt(len(self.gamma)))


class Rotary(nn.Module):
    """Rotation frequencies as the checkpoints store them; `rotations` computes its own, in full precision."""

    freqs: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", rotary_frequencies(head_dim))


def rotary_frequencies(head_dim: int) -> Tensor:
    """Return the rotation of each pair of channels from one position to the next, in radians."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    return 1 / ROTARY_BASE**exponents


def rotations(tokens: int, head_dim: int) -> Tensor:
    """Return the rotations at each position as real and imaginary parts, (tokens, 1, 1, head_dim / 2, 2)."""
    angles = torch.arange(tokens, dtype=torch.float32, device="cpu")[:, None] * rotary_frequencies(head_dim)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None, None]


class Attention(nn.Module):
    """Self-attention with rotary positions and a gate for each head."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self._heads = heads
        self.rotary_embed = Rotary(head_dim)
        self.norm = RMSNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_gates = nn.Linear(dim, heads)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, dim, bias=False))

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        """Map (sequences, tokens, dim); `turns`: the result of `rotations`."""
        normed = self.norm(x)
        qkv = self.to_qkv(normed).unflatten(-1, (3, self._heads, -1))
        pairs = torch.view_as_complex(qkv[:, :, :2].float().unflatten(-1, (-1, 2)))
        pairs = pairs.mul_(torch.view_as_complex(turns))
        query, key = torch.view_as_real(pairs).flatten(-2).permute(2, 0, 3, 1, 4)
        value = qkv[:, :, 2].transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value)
        gates = self.to_gates(normed).sigmoid().transpose(1, 2)[..., None]
        out: Tensor = self.to_out((mixed * gates).transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        # The empty places are dropouts in the networks that were trained.
        parts = (RMSNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim))
        self.net = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        norm, widen, _, _, narrow = self.net
        out: Tensor = narrow(torch.ops.aten.gelu_(widen(norm(x))))
        return out


class Transformer(nn.Module):
    """One block along time or along the bands. `normed`: with a norm at its end, as in Mel-Band RoFormer."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int, *, normed: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.ModuleList([Attention(dim, heads, head_dim), FeedForward(dim, hidden)])],
        )
        self.norm = RMSNorm(dim) if normed else None

    def run(self, x: Tensor, turns: Tensor) -> None:
        """Transform (sequences, tokens, dim) in place."""
        at_once = max(1, _TOKENS_AT_ONCE // x.shape[1]) if is_eager_on_cpu(x) else len(x)
        layers: Any = self.layers[0]
        attention, feed_forward = layers
        for first in range(0, len(x), at_once):
            part = x[first : first + at_once]
            part += attention(part, turns)
            part += feed_forward(part)
            if self.norm is not None:
                part.copy_(self.norm(part))


class MaskEstimator(nn.Module):
    """A perceptron for each band, from its features to its part of the mask of one stem."""

    def __init__(self, dim: int, hidden: int, linears: int, widths: list[int]) -> None:
        """`linears`: how many each perceptron has. `widths`: of the bands."""
        super().__init__()
        self.to_freqs = nn.ModuleList()
        for width in widths:
            sizes = [dim, *[hidden] * (linears - 1), 2 * width]
            layers: list[nn.Module] = []
            for size, next_size in pairwise(sizes):
                layers += [nn.Linear(size, next_size), nn.Tanh()]
            self.to_freqs.append(nn.Sequential(nn.Sequential(*layers[:-1]), nn.GLU(dim=-1)))
