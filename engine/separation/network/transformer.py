"""The layers of HTDemucs' transformer in eval mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.separation.ops.device import is_eager_on_cpu
from engine.separation.ops.torch_ops import TORCH, TorchOps


def self_attention_layer(layer: Any, x: Tensor, ops: TorchOps = TORCH) -> Tensor:
    """Run `demucs.transformer.MyTransformerEncoderLayer`. x: (batch, length, channels)."""
    if layer.norm_first:
        normed = layer.norm1(x)
        x = ops.add_attention(x, layer.gamma_1, layer.self_attn, normed, normed)
        return _normed(layer, ops.add_feed_forward(x, layer.gamma_2, layer, layer.norm2(x)))
    x = layer.norm1(ops.add_attention(x, layer.gamma_1, layer.self_attn, x, x))
    out: Tensor = layer.norm2(ops.add_feed_forward(x, layer.gamma_2, layer, x))
    return out


def cross_attention_layer(layer: Any, x: Tensor, other: Tensor, ops: TorchOps = TORCH) -> Tensor:
    """Run `demucs.transformer.CrossTransformerEncoderLayer`. x, other: (batch, length, channels)."""
    if layer.norm_first:
        x = ops.add_attention(x, layer.gamma_1, layer.cross_attn, layer.norm1(x), layer.norm2(other))
        return _normed(layer, ops.add_feed_forward(x, layer.gamma_2, layer, layer.norm3(x)))
    x = layer.norm1(ops.add_attention(x, layer.gamma_1, layer.cross_attn, x, other))
    out: Tensor = layer.norm2(ops.add_feed_forward(x, layer.gamma_2, layer, x))
    return out


def _normed(layer: Any, x: Tensor) -> Tensor:
    norm = layer.norm_out
    if not norm:
        return x
    if not is_eager_on_cpu(x) or norm.num_groups > 1:
        out: Tensor = norm(x)
        return out
    x = x - x.mean((1, 2), keepdim=True)  # avoids two transpositions
    factor = (x.square().mean((1, 2), keepdim=True) + norm.eps).rsqrt()
    return torch.addcmul(norm.bias, x.mul_(factor), norm.weight)
