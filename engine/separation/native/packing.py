"""Pack weights for the native ops: in panels, and for AMX as sums of bfloat16 in tiles."""

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
    """Return the rows of a step (`src/numbers.h`) for numbers of `parts`."""
    return 8 if parts == 1 else 32


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A packed matrix.

    `weight`: (panels, steps, rows, columns); for numbers of several parts (panels, steps, parts, tiles, pairs of rows,
    columns, rows of a pair). `group`, `within`, `widths`: for each tile of the result its group, its offset in the
    group, and its number of valid columns.
    """

    weight: Tensor
    parts: int  # of a number
    bias: Tensor  # (panels * 32,)
    columns: int  # of the result
    group: Tensor
    within: Tensor
    widths: Tensor
    in_pairs: bool = False  # for `src/pairs.cpp`

    @property
    def panels(self) -> int:
        return len(self.weight)


def pack(
    matrix: Tensor, bias: Tensor | None = None, width: int | None = None, *, parts: int, gated: bool = False
) -> PackedMatrix:
    """Pack a matrix (rows, columns).

    `width`: columns of a group, by default all. `parts`: of a number. `gated`: the second half of the columns gates the
    first.
    """
    rows, columns = matrix.shape
    columns //= 2 if gated else 1
    width = width or columns
    groups, tiles = columns // width, -(-width // TILE)
    last = torch.zeros_like(matrix[:1]) if bias is None else bias[None]
    both = torch.cat([matrix, last]).float().view(rows + 1, -1, groups, width)  # (rows, gate or not, groups, width)
    both = F.pad(both, (0, tiles * TILE - width)).view(rows + 1, -1, groups, tiles, TILE)
    both = both.permute(0, 2, 3, 1, 4).flatten(1, 3)  # each gate follows its values
    both = F.pad(both, (0, 0, 0, both.shape[1] % 2))
    in_steps = _in_steps(both[:rows].flatten(1), parts)
    order = torch.arange(groups * tiles + groups * tiles % 2)
    within = order % tiles * TILE
    widths = (width - within).clamp(0, TILE)
    widths[groups * tiles :] = 0
    return PackedMatrix(
        _in_panels(in_steps, parts), parts, both[rows].flatten().clone(), columns, order // tiles, within, widths
    )


def _in_steps(matrices: Tensor, parts: int) -> Tensor:
    """Pad (…, rows, columns) with zero rows to whole steps."""
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
) -> PackedMatrix:
    """Pack (columns, channels, taps over bins, taps over frames). `in_pairs`: for three taps over frames."""
    matrix = _pairs_matrix(weight, parts) if in_pairs else weight.permute(3, 2, 1, 0).flatten(0, 2)
    return replace(pack(matrix, bias, parts=parts, gated=gated), in_pairs=in_pairs)


def _pairs_matrix(weight: Tensor, parts: int) -> Tensor:
    """Return the four matrices of `src/pairs.cpp` stacked; each (taps over bins * channels, columns) in whole steps."""
    first, middle, last = weight.permute(3, 2, 1, 0).flatten(1, 2)
    sides = (first + last) / 2
    matrices = torch.stack([first, sides + middle / 2, sides - middle / 2, last])
    return _in_steps(matrices, parts).flatten(0, 1)


def spread_matrix(weight: Tensor, step: int) -> Tensor:
    """Return the matrix of a transposed convolution with 2 * `step` taps: (2 * channels, step * output channels).

    It maps two neighbours, the earlier one first, to the positions between them.
    `weight`: (channels, output channels, taps).
    """
    early, late = weight[:, :, step:], weight[:, :, :step]
    return torch.cat([part.transpose(1, 2).flatten(1) for part in (early, late)])


@dataclass(frozen=True, eq=False)
class PackedDConv:
    """A packed branch of DConv."""

    narrow: PackedMatrix  # the channels of every tap in whole steps
    hidden: tuple[Tensor, Tensor, Tensor]  # narrow bias, gain and offset of the first norm, padded
    wide: PackedMatrix
    moments: tuple[Tensor, Tensor, Tensor]  # of the wide weights, see `src/dconv.cpp`


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
