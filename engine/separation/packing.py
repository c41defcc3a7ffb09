"""Weights as the programs in `native` want them: numbers as the sum of two or three halves, in tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from engine.separation.branches import wide_matrix

VECTOR = 16  # numbers
TILE = 16  # columns
PANEL = 32  # columns: two tiles
STEP = 32  # rows of a tile


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix. Its weight is (panels, steps, halves, tiles, pairs of rows, columns, rows of a pair); the rest is
    of the tiles of a result: the group that each belongs to, where in it it begins, and how many columns count."""

    weight: Tensor
    bias: Tensor  # (panels * 32,)
    columns: int  # of the result
    group: Tensor
    within: Tensor
    widths: Tensor

    @property
    def panels(self) -> int:
        return len(self.weight)

    @property
    def halves(self) -> int:
        """Of a number."""
        return self.weight.shape[2]


def pack(
    matrix: Tensor, bias: Tensor | None = None, width: int | None = None, *, halves: int = 3, gated: bool = False
) -> Packed:
    """`matrix`: (rows, columns). `width`: of a group of columns, if not all of them are one. `halves`: of a number.
    `gated`: the second half of the columns are the gates of the first, which the result consists of."""
    rows, columns = matrix.shape
    columns //= 2 if gated else 1
    width = width or columns
    groups, tiles = columns // width, -(-width // TILE)
    last = torch.zeros_like(matrix[:1]) if bias is None else bias[None]
    both = torch.cat([matrix, last]).float().view(rows + 1, -1, groups, width)  # (rows, gate or not, groups, width)
    both = F.pad(both, (0, tiles * TILE - width)).view(rows + 1, -1, groups, tiles, TILE)
    both = both.permute(0, 2, 3, 1, 4).flatten(1, 3)  # a gate beside what it is the gate of
    both = F.pad(both, (0, 0, 0, both.shape[1] % 2))
    whole = F.pad(both[:rows].flatten(1), (0, 0, 0, -rows % STEP))
    planes = []
    for _ in range(halves):
        planes.append(whole.bfloat16())
        whole = whole - planes[-1].float()
    weight = (
        torch.stack(planes)
        .view(halves, -1, STEP // 2, 2, whole.shape[1] // PANEL, 2, TILE)
        .permute(4, 1, 0, 5, 2, 6, 3)
    )
    order = torch.arange(groups * tiles + groups * tiles % 2)
    within = order % tiles * TILE
    widths = (width - within).clamp(0, TILE)
    widths[groups * tiles :] = 0
    return Packed(weight.contiguous(), both[rows].flatten().contiguous(), columns, order // tiles, within, widths)


def spread_matrix(weight: Tensor, step: int) -> Tensor:
    """Of a transposed convolution of twice as many taps as it steps, (channels, channels of the result, taps): what two
    neighbours, the earlier one first, give to the places between them: (2 * channels, step * channels of it)."""
    early, late = weight[:, :, step:], weight[:, :, :step]
    return torch.cat([part.transpose(1, 2).flatten(1) for part in (early, late)])


@dataclass(frozen=True, eq=False)
class PackedBranch:
    """A residual branch."""

    narrow: Packed  # of every tap the channels, filled up to whole steps
    hidden: tuple[Tensor, Tensor, Tensor]  # the narrow bias, gain and offset of the first norm, filled up
    wide: Packed
    moments: tuple[Tensor, Tensor, Tensor]  # of the wide weights, as `native/branch.cpp` says


def pack_branch(branch: Any) -> PackedBranch:
    narrow, norm, _, wide, *_ = branch
    channels, hidden = narrow.in_channels, narrow.out_channels
    taps = F.pad(narrow.weight.permute(2, 1, 0), (0, 0, 0, -channels % STEP)).flatten(0, 1)
    bias, gain, offset = (F.pad(part, (0, -hidden % VECTOR)) for part in (narrow.bias, norm.weight, norm.bias))
    weight = wide.weight[:, :, 0].double()
    both = torch.cat([weight, wide.bias.double()[:, None]], 1)
    means = both.mean(0)
    moments = (weight.T @ weight, (both - means).T @ (both - means), means)
    return PackedBranch(pack(taps), (bias, gain, offset), pack(wide_matrix(branch), gated=True), moments)
