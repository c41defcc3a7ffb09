"""Demucs' `DConv` branches on a CPU, without normalising their wide output.

Mean and variance of `W h + b` follow from those of `h`, which has at most an eighth of the channels, so the norm and
the scale of a branch become part of the matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_BLOCK_VALUES = 1 << 17  # half a megabyte


def add_dconv(branch: Any, x: Tensor) -> None:
    """Add a branch of `demucs.demucs.DConv` to its input `x` (rows, frames, channels), normalised by row."""
    narrow, norm, act, wide, wide_norm, _, _ = branch
    frames, channels = x.shape[1:]
    hidden: Tensor = act(_normed(_dilated(narrow, x), norm))
    weight, bias = wide.weight[:, :, 0], wide.bias
    mean_h = hidden.mean(1)  # (rows, hidden)
    centred = hidden - mean_h[:, None]
    covariance = centred.transpose(1, 2) @ centred / frames  # (rows, hidden, hidden)
    means = torch.addmm(bias, mean_h, weight.T)  # (rows, 2 * channels)
    variance = (covariance * (weight.T @ weight)).sum((1, 2)) / len(weight) + means.var(1, correction=0)
    factor = (variance + wide_norm.eps).rsqrt()  # (rows,)
    rest = torch.stack([factor, means.mean(1) * factor, torch.ones_like(factor)], 1)
    columns = torch.cat([hidden * factor[:, None, None], rest[:, None].expand(-1, frames, -1)], 2)
    both = wide_matrix(branch)
    passed, gate = both[:, :channels].contiguous(), both[:, channels:].contiguous()
    for part, into in zip(blocks(columns, channels), blocks(x, channels), strict=True):
        into.addcmul_(part @ passed, (part @ gate).sigmoid_())


def wide_matrix(branch: Any) -> Tensor:
    """Return the wide weights with norm and scale folded in: (hidden + 3, 2 * channels).

    The columns of its input are the hidden values times the factor of the row, the factor, the factor times the mean,
    and one.
    """
    *_, wide, norm, _, scale = branch
    scales = torch.cat([scale.scale, torch.ones_like(scale.scale)])  # applies to the values, not to the gate
    gain, offset = norm.weight * scales, norm.bias * scales
    weight = wide.weight[:, :, 0] * gain[:, None]
    return torch.cat([weight, torch.stack([wide.bias * gain, -gain, offset], 1)], 1).T


def blocks(x: Tensor, channels: int) -> tuple[Tensor, ...]:
    """Split the rows of `x` into blocks whose results, `channels` values per row, fit the cache."""
    return torch.split(x.flatten(0, -2), max(64, _BLOCK_VALUES // channels))


def _dilated(conv: Any, x: Tensor) -> Tensor:
    """Convolve (rows, frames, channels) over frames to few channels: one matrix product, shifted and added."""
    taps, dilation, frames = conv.kernel_size[0], conv.dilation[0], x.shape[1]
    matrix = conv.weight.permute(1, 2, 0).flatten(1)
    made = (x.flatten(0, 1) @ matrix).view(*x.shape[:2], taps, conv.out_channels)
    centre = taps // 2
    out: Tensor = made[:, :, centre] + conv.bias
    for tap in range(centre):
        by = (centre - tap) * dilation
        reached = max(0, frames - by)
        out[:, by:] += made[:, :reached, tap]
        out[:, :reached] += made[:, by:, taps - 1 - tap]
    return out


def _normed(x: Tensor, norm: Any) -> Tensor:
    """Apply group norm with one group to every row of (rows, frames, channels)."""
    x = x - x.mean((1, 2), keepdim=True)
    factor = ((x * x).mean((1, 2), keepdim=True) + norm.eps).rsqrt()
    return torch.addcmul(norm.bias, x * factor, norm.weight)
