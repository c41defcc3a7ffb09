"""The layers of HTDemucs' transformer in eval mode, without the fast path of `nn.MultiheadAttention`, which writes all
scores to memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.separation.device import is_eager_on_cpu

_BLOCK = 1 << 20  # hidden values that are made at once on a CPU: four megabytes


def self_attention_layer(layer: Any, x: Tensor) -> Tensor:
    """`demucs.transformer.MyTransformerEncoderLayer`. x: (batch, length, channels)."""
    if layer.norm_first:
        normed = layer.norm1(x)
        x = added(x, layer.gamma_1, attend(layer.self_attn, normed, normed))
        x = added(x, layer.gamma_2, feed_forward(layer, layer.norm2(x)))
        return _normed(layer, x)
    x = layer.norm1(added(x, layer.gamma_1, attend(layer.self_attn, x, x)))
    out: Tensor = layer.norm2(added(x, layer.gamma_2, feed_forward(layer, x)))
    return out


def cross_attention_layer(layer: Any, x: Tensor, other: Tensor) -> Tensor:
    """`demucs.transformer.CrossTransformerEncoderLayer`. x, other: (batch, length, channels)."""
    if layer.norm_first:
        x = added(x, layer.gamma_1, attend(layer.cross_attn, layer.norm1(x), layer.norm2(other)))
        x = added(x, layer.gamma_2, feed_forward(layer, layer.norm3(x)))
        return _normed(layer, x)
    x = layer.norm1(added(x, layer.gamma_1, attend(layer.cross_attn, x, other)))
    out: Tensor = layer.norm2(added(x, layer.gamma_2, feed_forward(layer, x)))
    return out


def feed_forward(layer: Any, x: Tensor) -> Tensor:
    if not is_eager_on_cpu(x):
        at_once: Tensor = layer.linear2(layer.activation(layer.linear1(x)))
        return at_once
    first, second = layer.linear1, layer.linear2
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows = max(64, _BLOCK // first.out_features)
    parts = (torch.split(whole.flatten(0, -2), rows) for whole in (x, out))
    for part, made in zip(*parts, strict=True):
        hidden = layer.activation(torch.addmm(first.bias, part, first.weight.T))
        torch.addmm(second.bias, hidden, second.weight.T, out=made)
    return out


def attend(attention: nn.MultiheadAttention, x: Tensor, other: Tensor) -> Tensor:
    """`nn.MultiheadAttention`. x: (batch, length, channels) asks, other (batch, other length, channels) answers."""
    channels, heads = attention.embed_dim, attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if x is other:
        query, key, value = F.linear(x, weight, bias).chunk(3, dim=-1)
    else:
        query = F.linear(x, weight[:channels], bias[:channels])
        key, value = F.linear(other, weight[channels:], bias[channels:]).chunk(2, dim=-1)
    query, key, value = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias)


def added(x: Tensor, scale: Any, change: Tensor) -> Tensor:
    """`x + scale(change)`, where scale is a `LayerScale` or nothing; in eager mode in place of `change`."""
    if isinstance(scale, nn.Identity) or not is_eager_on_cpu(x):  # a GPU's change may be of half precision
        added: Tensor = x + scale(change)
        return added
    return torch.addcmul(x, scale.scale, change, out=change)


def _normed(layer: Any, x: Tensor) -> Tensor:
    out: Tensor = layer.norm_out(x) if layer.norm_out else x
    return out
