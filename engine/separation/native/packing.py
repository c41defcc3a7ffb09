"""Weights as the programs in `native` want them: in panels, for AMX as sums of halves and in tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from engine.separation.ops.dconv import wide_matrix

VECTOR = 16  # numbers
TILE = 16  # columns
PANEL = 32  # columns: two tiles


def step_of(parts: int) -> int:
    """Rows that a step has (`src/numbers.h`), where a number has so many parts."""
    return 8 if parts == 1 else 32


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix. Its weight is (panels, steps, rows, columns); of numbers of several parts, (panels, steps, parts,
    tiles, pairs of rows, columns, rows of a pair). The rest is of the tiles of a result: the group that each belongs
    to, where in it it begins, and how many columns count."""

    weight: Tensor
    parts: int  # of a number
    bias: Tensor  # (panels * 32,)
    columns: int  # of the result
    group: Tensor
    within: Tensor
    widths: Tensor
    in_pairs: bool = False  # of frames: for `src/pairs.cpp`

    @property
    def panels(self) -> int:
        return len(self.weight)


def pack(
    matrix: Tensor, bias: Tensor | None = None, width: int | None = None, *, parts: int, gated: bool = False
) -> Packed:
    """`matrix`: (rows, columns). `width`: of a group of columns, if not all of them are one. `parts`: of a number.
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
    whole = _in_steps(both[:rows].flatten(1), parts)
    order = torch.arange(groups * tiles + groups * tiles % 2)
    within = order % tiles * TILE
    widths = (width - within).clamp(0, TILE)
    widths[groups * tiles :] = 0
    return Packed(
        _in_panels(whole, parts), parts, both[rows].flatten().clone(), columns, order // tiles, within, widths
    )


def _in_steps(matrices: Tensor, parts: int) -> Tensor:
    """(…, rows, columns), filled up with rows of zeros."""
    return F.pad(matrices, (0, 0, 0, -matrices.shape[-2] % step_of(parts)))


def _in_panels(matrix: Tensor, parts: int) -> Tensor:
    rows, panels = step_of(parts), matrix.shape[1] // PANEL
    if parts == 1:
        return matrix.view(-1, rows, panels, PANEL).permute(2, 0, 1, 3).contiguous()
    planes = []
    for _ in range(parts):
        planes.append(matrix.bfloat16())
        matrix = matrix - planes[-1].float()
    tiles = torch.stack(planes).view(parts, -1, rows // 2, 2, panels, 2, TILE)
    return tiles.permute(4, 1, 0, 5, 2, 6, 3).contiguous()


def pack_convolution(
    weight: Tensor, bias: Tensor | None, *, parts: int, gated: bool = False, in_pairs: bool = False
) -> Packed:
    """`weight`: (columns, channels, taps over bins, taps over frames). `in_pairs`: of frames, if it has three taps."""
    matrix = _pairs_matrix(weight, parts) if in_pairs else weight.permute(3, 2, 1, 0).flatten(0, 2)
    return replace(pack(matrix, bias, parts=parts, gated=gated), in_pairs=in_pairs)


def _pairs_matrix(weight: Tensor, parts: int) -> Tensor:
    """The four matrices that `src/pairs.cpp` says, one below the other, each (taps over bins * channels, columns)
    and filled up to whole steps."""
    first, middle, last = weight.permute(3, 2, 1, 0).flatten(1, 2)
    sides = (first + last) / 2
    matrices = torch.stack([first, sides + middle / 2, sides - middle / 2, last])
    return _in_steps(matrices, parts).flatten(0, 1)


def spread_matrix(weight: Tensor, step: int) -> Tensor:
    """Of a transposed convolution of twice as many taps as it steps, (channels, channels of the result, taps): what two
    neighbours, the earlier one first, give to the places between them: (2 * channels, step * channels of it)."""
    early, late = weight[:, :, step:], weight[:, :, :step]
    return torch.cat([part.transpose(1, 2).flatten(1) for part in (early, late)])


@dataclass(frozen=True, eq=False)
class PackedDConv:
    """A residual branch."""

    narrow: Packed  # of every tap the channels, filled up to whole steps
    hidden: tuple[Tensor, Tensor, Tensor]  # the narrow bias, gain and offset of the first norm, filled up
    wide: Packed
    moments: tuple[Tensor, Tensor, Tensor]  # of the wide weights, as `src/dconv.cpp` says


def pack_dconv(branch: Any, parts: int) -> PackedDConv:
    narrow, norm, _, wide, *_ = branch
    taps = _in_steps(narrow.weight.permute(2, 1, 0), parts).flatten(0, 1)
    bias, gain, offset = (F.pad(part, (0, -len(part) % VECTOR)) for part in (narrow.bias, norm.weight, norm.bias))
    weight = wide.weight[:, :, 0].double()
    both = torch.cat([weight, wide.bias.double()[:, None]], 1)
    means = both.mean(0)
    moments = (weight.T @ weight, (both - means).T @ (both - means), means)
    wide_part = pack(wide_matrix(branch), parts=parts, gated=True)
    return PackedDConv(pack(taps, parts=parts), (bias, gain, offset), wide_part, moments)
