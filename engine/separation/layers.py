"""Demucs' encoder and decoder layers on a CPU: the same values with a fraction of the memory traffic.

A convolution of width one is a product of matrices, and the narrow ones of the residual branches are products whose
rows are shifted and added; so is a transposed one of few channels over the bins. What is wide is made in blocks that
stay in the cache, from the product to the gate. A layer of an uncommon build runs as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from demucs.demucs import DConv
from demucs.hdemucs import HDecLayer, HEncLayer
from demucs.transformer import LayerScale
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

_BLOCK = 1 << 18  # values of a product that are gated at once: a megabyte
_FEW = 96  # input channels of a transposed convolution
_BRANCH = (nn.Conv1d, nn.GroupNorm, nn.GELU, nn.Conv1d, nn.GroupNorm, nn.GLU, LayerScale)


def encode(layer: Any, x: Tensor, inject: Tensor | None = None) -> Tensor:
    """`demucs.hdemucs.HEncLayer.forward`. x: (batch, channels, bins, frames) or (batch, channels, samples)."""
    if type(layer) is not HEncLayer or layer.empty:
        whole: Tensor = layer(x, inject)
        return whole
    if not layer.freq:
        x = x.flatten(1, -2) if x.dim() == 4 else x
        x = F.pad(x, (0, -x.shape[-1] % layer.stride))
    y = layer.conv(x)
    if inject is not None:
        y = y + (inject[:, :, None] if inject.dim() < y.dim() else inject)
    y = F.gelu(layer.norm1(y))
    if layer.dconv is not None:
        y = _residual_branches(layer.dconv, y)
    return y if layer.rewrite is None else _rewritten(layer.rewrite, layer.norm2, y)


def decode(layer: Any, x: Tensor, skip: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
    """`demucs.hdemucs.HDecLayer.forward`: what the layer gives, and what it has before its transposed convolution."""
    if type(layer) is not HDecLayer or layer.empty:
        whole: tuple[Tensor, Tensor] = layer(x, skip, length)
        return whole
    if layer.freq and x.dim() == 3:
        x = x.view(x.shape[0], layer.chin, -1, x.shape[-1])
    assert skip is not None
    y = x + skip
    if layer.rewrite is not None:
        y = _rewritten(layer.rewrite, layer.norm1, y)
    if layer.dconv is not None:
        y = _residual_branches(layer.dconv, y)
    if _is_narrow_spread(layer):
        return _spread(layer.conv_tr, y, last=layer.last), y
    z = layer.norm2(layer.conv_tr(y))
    z = z.narrow(2, layer.pad, z.shape[2] - 2 * layer.pad if layer.freq else length)
    return z if layer.last else F.gelu(z), y


def _rewritten(conv: Any, norm: nn.Module, x: Tensor) -> Tensor:
    """Convolution, norm and gate."""
    if max(conv.kernel_size) > 1 or not isinstance(norm, nn.Identity):
        return F.glu(norm(conv(x)), dim=1)
    columns = x.flatten(2)
    out = torch.empty_like(columns)
    weight, bias = conv.weight.flatten(1), conv.bias[:, None]
    for song, gated in zip(columns, out, strict=True):
        for block in _blocks(song.shape[1], len(weight)):
            product = torch.addmm(bias, weight, song[:, block])
            gated[:, block] = F.glu(product, dim=0)
    return out.view_as(x)


def _is_narrow_spread(layer: Any) -> bool:
    """Whether the transposed convolution is one for `_spread`; with many channels the library's own is as fast."""
    conv = layer.conv_tr
    shape = (layer.freq, layer.pad, conv.kernel_size, conv.stride)
    is_common = shape == (True, 2, (8, 1), (4, 1)) and isinstance(layer.norm2, nn.Identity)
    return is_common and conv.in_channels <= _FEW


def _spread(conv: Any, x: Tensor, *, last: bool) -> Tensor:
    """The transposed convolution of a decoder layer without the two outer rows on either side, and its activation.

    x: (batch, channels, bins, frames) → (batch, …, 4 * bins, frames). Each bin makes four rows: all from itself, the
    first two from the bin before it too, the others from the bin after it.
    """
    batch, _, bins, frames = x.shape
    taps = conv.weight[..., 0].permute(2, 1, 0)  # (8, out, in)
    channels = taps.shape[1]
    here, before, after = (taps[part].flatten(0, 1) for part in (slice(2, 6), slice(6, 8), slice(0, 2)))
    bias = conv.bias.repeat(4)[:, None]
    out = x.new_empty(batch, channels, bins, 4, frames)
    at_once = max(1, _BLOCK // (4 * channels * frames))
    for song, spread in zip(F.pad(x, (0, 0, 1, 1)).flatten(2), out, strict=True):
        for start in range(0, bins, at_once):
            end = min(bins, start + at_once)
            rows = torch.addmm(bias, here, song[:, (start + 1) * frames : (end + 1) * frames])
            rows[: 2 * channels].addmm_(before, song[:, start * frames : end * frames])
            rows[2 * channels :].addmm_(after, song[:, (start + 2) * frames : (end + 2) * frames])
            rows = rows if last else F.gelu(rows)
            spread[:, start:end] = rows.view(4, channels, -1, frames).permute(1, 2, 0, 3)
    return out.view(batch, channels, 4 * bins, frames)


def _blocks(columns: int, rows: int) -> list[slice]:
    """Slices of the columns of a product."""
    size = max(64, _BLOCK // rows)
    return [slice(start, start + size) for start in range(0, columns, size)]


def _residual_branches(dconv: DConv, x: Tensor) -> Tensor:
    """`demucs.demucs.DConv.forward` over the frames of every bin, or over samples. `x` is written to."""
    if not all(_is_plain(branch) for branch in dconv.layers):
        if x.dim() == 3:
            plain: Tensor = dconv(x)
            return plain
        y: Tensor = dconv(x.transpose(1, 2).flatten(0, 1))
        return y.view(x.shape[0], x.shape[2], *y.shape[1:]).transpose(1, 2)
    x = x.contiguous()
    rows = x.view(x.shape[0], x.shape[1], -1, x.shape[-1])
    for branch in dconv.layers:
        for song in rows:
            _add_branch(branch, song)
    return x


def _is_plain(branch: Any) -> bool:
    """Neither LSTM nor attention within."""
    kinds = tuple(type(layer) for layer in branch)
    return kinds == _BRANCH and branch[1].num_groups == branch[4].num_groups == 1


def _add_branch(branch: Any, x: Tensor) -> None:
    """Add to `x` (channels, rows, frames) what a residual branch makes of it. Each row is normed on its own.

    The wide half is never normed after the fact: mean and variance of `W h + b` follow from those of `h`, which has an
    eighth of the channels or less, so that the norm and the scale of the branch become part of the product.
    """
    narrow, norm, act, wide, wide_norm, _, scale = branch
    channels, rows, frames = x.shape
    hidden: Tensor = act(_normed(_dilated(narrow, x), norm))
    weight, bias = wide.weight[:, :, 0], wide.bias
    mean_h = hidden.mean(2)  # (hidden, rows)
    centred = (hidden - mean_h[..., None]).transpose(0, 1)
    covariance = centred @ centred.transpose(1, 2) / frames  # (rows, hidden, hidden)
    means = torch.addmm(bias[:, None], weight, mean_h)  # of every channel in every row
    variance = (covariance * (weight.T @ weight)).sum((1, 2)) / len(weight) + means.var(0, correction=0)
    factor = (variance + wide_norm.eps).rsqrt()  # of a row
    gain, offset = wide_norm.weight, wide_norm.bias
    scales = torch.cat([scale.scale, torch.ones_like(scale.scale)])  # of what is let through, not of the gate
    gain, offset = gain * scales, offset * scales
    rest = torch.stack([factor, means.mean(0) * factor, torch.ones_like(factor)])
    columns = torch.cat([hidden * factor[:, None], rest[..., None].expand(-1, -1, frames)]).flatten(1)
    matrix = torch.cat([weight * gain[:, None], torch.stack([bias * gain, -gain, offset], 1)], 1)
    x = x.view(channels, -1)
    for block in _blocks(rows * frames, len(matrix)):
        product = matrix @ columns[:, block]
        x[:, block].addcmul_(product[:channels], product[channels:].sigmoid_())


def _dilated(conv: Any, x: Tensor) -> Tensor:
    """A convolution of few channels over the frames of (channels, rows, frames), as wide as its padding lets it be."""
    taps, dilation = conv.kernel_size[0], conv.dilation[0]
    weight: Tensor = conv.weight.permute(2, 0, 1).flatten(0, 1)
    products = (weight @ x.flatten(1)).view(taps, -1, *x.shape[1:])
    centre = taps // 2
    out: Tensor = products[centre] + conv.bias[:, None, None]
    for tap in range(centre):
        by = (centre - tap) * dilation
        reached = max(0, x.shape[-1] - by)
        out[..., by:] += products[tap, ..., :reached]
        out[..., :reached] += products[taps - 1 - tap, ..., by:]
    return out


def _normed(x: Tensor, norm: Any) -> Tensor:
    """Group norm with one group of every row of (channels, rows, frames)."""
    x = x - x.mean(2).mean(0)[:, None]
    factor = ((x * x).mean(2).mean(0) + norm.eps).rsqrt()
    return torch.addcmul(norm.bias[:, None, None], x * factor[:, None], norm.weight[:, None, None])
