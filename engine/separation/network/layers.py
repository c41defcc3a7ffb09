"""Demucs' encoder and decoder layers on a CPU: the same values with a fraction of the memory traffic.

The channels of a moment lie side by side here (batch, bins, frames, channels; time layers have one bin), although the
tensors that go in and out keep Demucs' shapes: a convolution otherwise turns its input and its output round each time.
A layer of an uncommon build runs as it is, and so does every layer elsewhere.
"""

from __future__ import annotations

from typing import Any

from demucs.demucs import DConv
from demucs.hdemucs import HDecLayer, HEncLayer
from demucs.transformer import LayerScale
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.separation.ops.device import is_eager_on_cpu
from engine.separation.ops.torch_ops import TORCH, TorchOps, activated

_BRANCH = (nn.Conv1d, nn.GroupNorm, nn.GELU, nn.Conv1d, nn.GroupNorm, nn.GLU, LayerScale)


def encode(layer: Any, x: Tensor, inject: Tensor | None = None, ops: TorchOps = TORCH) -> Tensor:
    """`demucs.hdemucs.HEncLayer.forward`. x: (batch, channels, bins, frames) or (batch, channels, samples)."""
    if not is_eager_on_cpu(x) or type(layer) is not HEncLayer or layer.empty or not _is_plain(layer):
        whole: Tensor = layer(x, inject)
        return whole
    if not layer.freq and x.dim() == 4:
        x = x.flatten(1, -2)
    y = _turned(x)
    if missing := 0 if layer.freq else -x.shape[-1] % layer.stride:
        y = F.pad(y, (0, 0, 0, missing))
    y = ops.convolved(layer.conv, y, activate=inject is None)
    if inject is not None:
        y = activated(y.add_(_turned(inject)))
    if layer.dconv is not None:
        _add_branches(layer.dconv, y, ops)
    if layer.rewrite is not None:
        y = ops.gated(layer.rewrite, y)
    return _turned_back(y, x.dim())


def decode(layer: Any, x: Tensor, skip: Tensor | None, length: int, ops: TorchOps = TORCH) -> tuple[Tensor, Tensor]:
    """`demucs.hdemucs.HDecLayer.forward`: what the layer gives, and what it has before its transposed convolution.
    `x`, which may be `skip` itself, may be written to."""
    if not is_eager_on_cpu(x) or type(layer) is not HDecLayer or layer.empty or not _is_plain(layer):
        whole: tuple[Tensor, Tensor] = layer(x, skip, length)
        return whole
    if layer.freq and x.dim() == 3:
        x = x.view(x.shape[0], layer.chin, -1, x.shape[-1])
    assert skip is not None
    y = _turned(x).add_(_turned(skip))
    if layer.rewrite is not None:
        y = ops.gated(layer.rewrite, y)
    if layer.dconv is not None:
        _add_branches(layer.dconv, y, ops)
    z = ops.spread(layer.conv_tr, y, layer.pad, activate=not layer.last)
    if not layer.freq:
        z = z[:, :, :length]
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


def _add_branches(dconv: DConv, x: Tensor, ops: TorchOps) -> None:
    """`demucs.demucs.DConv.forward` over the frames of every bin of (batch, bins, frames, channels), which is written
    to."""
    for branch in dconv.layers:
        ops.add_dconv(branch, x.flatten(0, 1))
