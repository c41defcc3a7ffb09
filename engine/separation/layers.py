"""Demucs' encoder and decoder layers on a CPU: the same values with a fraction of the memory traffic.

The channels of a moment lie side by side here (batch, bins, frames, channels; time layers have one bin), although the
tensors that go in and out keep Demucs' shapes: oneDNN's convolutions want it so, and otherwise turn their input and
their output round each time. A convolution of width one is then a product of matrices; the narrow ones of the residual
branches are products whose frames are shifted and added. What is wide is made in blocks that stay in the cache, from
the product to the gate. A layer of an uncommon build runs as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from demucs.demucs import DConv
from demucs.hdemucs import HDecLayer, HEncLayer
from demucs.transformer import LayerScale
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

_BLOCK = 1 << 17  # values of a product that are gated at once: half a megabyte
_BRANCH = (nn.Conv1d, nn.GroupNorm, nn.GELU, nn.Conv1d, nn.GroupNorm, nn.GLU, LayerScale)


def encode(layer: Any, x: Tensor, inject: Tensor | None = None) -> Tensor:
    """`demucs.hdemucs.HEncLayer.forward`. x: (batch, channels, bins, frames) or (batch, channels, samples)."""
    if type(layer) is not HEncLayer or layer.empty or not _is_plain(layer):
        whole: Tensor = layer(x, inject)
        return whole
    if not layer.freq and x.dim() == 4:
        x = x.flatten(1, -2)
    y = _turned(x)
    if missing := 0 if layer.freq else -x.shape[-1] % layer.stride:
        y = F.pad(y, (0, 0, 0, missing))
    y = _convolved(layer.conv, y)
    if inject is not None:
        y.add_(_turned(inject))
    _activate(y)
    if layer.dconv is not None:
        _add_branches(layer.dconv, y)
    if layer.rewrite is not None:
        y = _rewritten(layer.rewrite, y)
    return _turned_back(y, x.dim())


def decode(layer: Any, x: Tensor, skip: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
    """`demucs.hdemucs.HDecLayer.forward`: what the layer gives, and what it has before its transposed convolution.
    `x`, which may be `skip` itself, may be written to."""
    if type(layer) is not HDecLayer or layer.empty or not _is_plain(layer):
        whole: tuple[Tensor, Tensor] = layer(x, skip, length)
        return whole
    if layer.freq and x.dim() == 3:
        x = x.view(x.shape[0], layer.chin, -1, x.shape[-1])
    assert skip is not None
    y = _turned(x).add_(_turned(skip))
    if layer.rewrite is not None:
        y = _rewritten(layer.rewrite, y)
    if layer.dconv is not None:
        _add_branches(layer.dconv, y)
    z = _spread(layer.conv_tr, y, layer.pad)
    if not layer.freq:
        z = z[:, :, :length]
    if not layer.last:
        _activate(z)
    return _turned_back(z, x.dim()), _turned_back(y, x.dim())


def _is_plain(layer: Any) -> bool:
    """No norms; no LSTM and no attention in the branches."""
    norms = (getattr(layer, name, None) for name in ("norm1", "norm2"))
    branches = layer.dconv.layers if isinstance(layer.dconv, DConv) else ()
    return all(norm is None or type(norm) is nn.Identity for norm in norms) and all(map(_is_common, branches))


def _is_common(branch: Any) -> bool:
    kinds = tuple(type(layer) for layer in branch)
    return kinds == _BRANCH and branch[1].num_groups == branch[4].num_groups == 1


def _turned(x: Tensor) -> Tensor:
    """(batch, channels, bins, frames) or (batch, channels, samples) → (batch, bins or one, frames, channels)."""
    return (x if x.dim() == 4 else x[:, :, None]).permute(0, 2, 3, 1).contiguous()


def _turned_back(x: Tensor, dimensions: int) -> Tensor:
    x = x.permute(0, 3, 1, 2)
    return x if dimensions == 4 else x[:, :, 0]


def _activate(x: Tensor) -> None:
    """`F.gelu`, in place."""
    torch.ops.aten.gelu_(x)


def _in_two_dimensions(conv: Any) -> tuple[Tensor, list[int], list[int]]:
    """Weight, stride and padding."""
    if conv.weight.dim() == 4:
        return conv.weight, list(conv.stride), list(conv.padding)
    return conv.weight[:, :, None], [1, *conv.stride], [0, *conv.padding]


def _convolved(conv: Any, x: Tensor) -> Tensor:
    weight, stride, padding = _in_two_dimensions(conv)
    return F.conv2d(x.permute(0, 3, 1, 2), weight, conv.bias, stride, padding).permute(0, 2, 3, 1).contiguous()


def _spread(conv: Any, x: Tensor, pad: int) -> Tensor:
    """The transposed convolution without `pad` bins, or frames, on either side."""
    weight, stride, _ = _in_two_dimensions(conv)
    padding = [pad, 0] if conv.weight.dim() == 4 else [0, pad]
    y = F.conv_transpose2d(x.permute(0, 3, 1, 2), weight, conv.bias, stride, padding)
    return y.permute(0, 2, 3, 1).contiguous()


def _rewritten(conv: Any, x: Tensor) -> Tensor:
    """Convolution and gate."""
    if max(conv.kernel_size) > 1:
        return F.glu(_convolved(conv, x), dim=-1)
    channels = x.shape[-1]
    out = torch.empty_like(x)
    weight, bias = conv.weight.flatten(1).T, conv.bias
    for part, gated in zip(_blocks(x, channels), _blocks(out, channels), strict=True):
        gate = torch.addmm(bias[channels:], part, weight[:, channels:]).sigmoid_()
        torch.mul(torch.addmm(bias[:channels], part, weight[:, :channels]), gate, out=gated)
    return out


def _blocks(x: Tensor, channels: int) -> tuple[Tensor, ...]:
    """The rows of `x`, as many at once as fit the cache when `channels` values are made of each."""
    return torch.split(x.flatten(0, -2), max(64, _BLOCK // channels))


def _add_branches(dconv: DConv, x: Tensor) -> None:
    """`demucs.demucs.DConv.forward` over the frames of every bin of (batch, bins, frames, channels), which is written
    to."""
    for branch in dconv.layers:
        _add_branch(branch, x.flatten(0, 1))


def _add_branch(branch: Any, x: Tensor) -> None:
    """Add to `x` (rows, frames, channels) what a residual branch makes of it. Each row is normed on its own.

    The wide half is never normed after the fact: mean and variance of `W h + b` follow from those of `h`, which has an
    eighth of the channels or less, so that the norm and the scale of the branch become part of the product.
    """
    narrow, norm, act, wide, wide_norm, _, scale = branch
    frames, channels = x.shape[1:]
    hidden: Tensor = act(_normed(_dilated(narrow, x), norm))
    weight, bias = wide.weight[:, :, 0], wide.bias
    mean_h = hidden.mean(1)  # (rows, hidden)
    centred = hidden - mean_h[:, None]
    covariance = centred.transpose(1, 2) @ centred / frames  # (rows, hidden, hidden)
    means = torch.addmm(bias, mean_h, weight.T)  # of every channel in every row
    variance = (covariance * (weight.T @ weight)).sum((1, 2)) / len(weight) + means.var(1, correction=0)
    factor = (variance + wide_norm.eps).rsqrt()  # of a row
    gain, offset = wide_norm.weight, wide_norm.bias
    scales = torch.cat([scale.scale, torch.ones_like(scale.scale)])  # of what is let through, not of the gate
    gain, offset = gain * scales, offset * scales
    rest = torch.stack([factor, means.mean(1) * factor, torch.ones_like(factor)], 1)
    columns = torch.cat([hidden * factor[:, None, None], rest[:, None].expand(-1, frames, -1)], 2)
    matrix = torch.cat([weight * gain[:, None], torch.stack([bias * gain, -gain, offset], 1)], 1)
    passed, gate = matrix[:channels].T.contiguous(), matrix[channels:].T.contiguous()
    for part, into in zip(_blocks(columns, channels), _blocks(x, channels), strict=True):
        into.addcmul_(part @ passed, (part @ gate).sigmoid_())


def _dilated(conv: Any, x: Tensor) -> Tensor:
    """A convolution of few channels over the frames of (rows, frames, channels), as wide as its padding lets it be."""
    taps, dilation = conv.kernel_size[0], conv.dilation[0]
    hidden, frames = conv.out_channels, x.shape[1]
    products = (x.flatten(0, 1) @ conv.weight.permute(1, 2, 0).flatten(1)).view(*x.shape[:2], taps, hidden)
    centre = taps // 2
    out: Tensor = products[:, :, centre] + conv.bias
    for tap in range(centre):
        by = (centre - tap) * dilation
        reached = max(0, frames - by)
        out[:, by:] += products[:, :reached, tap]
        out[:, :reached] += products[:, by:, taps - 1 - tap]
    return out


def _normed(x: Tensor, norm: Any) -> Tensor:
    """Group norm with one group of every row of (rows, frames, channels)."""
    x = x - x.mean((1, 2), keepdim=True)
    factor = ((x * x).mean((1, 2), keepdim=True) + norm.eps).rsqrt()
    return torch.addcmul(norm.bias, x * factor, norm.weight)
