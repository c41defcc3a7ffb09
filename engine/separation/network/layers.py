"""Demucs' encoder and decoder layers on a CPU: the same values with a fraction of the memory traffic.

Inputs and outputs keep Demucs' shapes; inside, channels come last (batch, bins, frames, channels; time layers have one
bin), because a convolution would otherwise transpose its input and output each time. Layers of an unusual
architecture, and all layers on other devices, run their own forward pass.
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

_DCONV = (nn.Conv1d, nn.GroupNorm, nn.GELU, nn.Conv1d, nn.GroupNorm, nn.GLU, LayerScale)


def encode(layer: Any, x: Tensor, inject: Tensor | None = None, ops: TorchOps = TORCH) -> Tensor:
    """Run `demucs.hdemucs.HEncLayer.forward`. x: (batch, channels, bins, frames) or (batch, channels, samples)."""
    if not is_eager_on_cpu(x) or type(layer) is not HEncLayer or layer.empty or not _is_plain(layer):
        whole: Tensor = layer(x, inject)
        return whole
    if not layer.freq and x.dim() == 4:
        x = x.flatten(1, -2)
    y = _channels_last(x)
    if missing := 0 if layer.freq else -x.shape[-1] % layer.stride:
        y = F.pad(y, (0, 0, 0, missing))
    y = ops.convolved(layer.conv, y, activate=inject is None)
    if inject is not None:
        y = activated(y.add_(_channels_last(inject)))
    if layer.dconv is not None:
        _add_dconv(layer.dconv, y, ops)
    if layer.rewrite is not None:
        y = ops.gated(layer.rewrite, y)
    return _channels_second(y, x.dim())


def decode(layer: Any, x: Tensor, skip: Tensor | None, length: int, ops: TorchOps = TORCH) -> tuple[Tensor, Tensor]:
    """Run `demucs.hdemucs.HDecLayer.forward`: return the output and the input of the transposed convolution.

    `x`, which may be `skip` itself, may be overwritten.
    """
    if not is_eager_on_cpu(x) or type(layer) is not HDecLayer or layer.empty or not _is_plain(layer):
        whole: tuple[Tensor, Tensor] = layer(x, skip, length)
        return whole
    if layer.freq and x.dim() == 3:
        x = x.view(x.shape[0], layer.chin, -1, x.shape[-1])
    assert skip is not None
    y = _channels_last(x).add_(_channels_last(skip))
    if layer.rewrite is not None:
        y = ops.gated(layer.rewrite, y)
    if layer.dconv is not None:
        _add_dconv(layer.dconv, y, ops)
    z = ops.spread(layer.conv_tr, y, layer.pad, activate=not layer.last)
    if not layer.freq:
        z = z[:, :, :length]
    return _channels_second(z, x.dim()), _channels_second(y, x.dim())


def _is_plain(layer: Any) -> bool:
    """Return whether a layer has no norms, and neither LSTM nor attention in its DConv."""
    norms = (getattr(layer, name, None) for name in ("norm1", "norm2"))
    branches = layer.dconv.layers if isinstance(layer.dconv, DConv) else ()
    return all(norm is None or type(norm) is nn.Identity for norm in norms) and all(map(_is_common, branches))


def _is_common(branch: Any) -> bool:
    kinds = tuple(type(layer) for layer in branch)
    return kinds == _DCONV and branch[1].num_groups == branch[4].num_groups == 1


def _channels_last(x: Tensor) -> Tensor:
    """Return (batch, bins, frames, channels); time layers (batch, channels, samples) get one bin."""
    return (x if x.dim() == 4 else x[:, :, None]).permute(0, 2, 3, 1).contiguous()


def _channels_second(x: Tensor, dimensions: int) -> Tensor:
    x = x.permute(0, 3, 1, 2)
    return x if dimensions == 4 else x[:, :, 0]


def _add_dconv(dconv: DConv, x: Tensor, ops: TorchOps) -> None:
    """Run `demucs.demucs.DConv.forward` in place, over the frames of every bin of (batch, bins, frames, channels)."""
    for branch in dconv.layers:
        ops.add_dconv(branch, x.flatten(0, 1))
