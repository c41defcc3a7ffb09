"""The ops of a pass through Demucs, on any device: convolutions, attention, feed-forward and DConv.

`engine.separation.native.ops` implements them in C++ for a CPU. Tensors are (batch, bins, frames, channels), the layout
of oneDNN's convolutions; time layers have one bin. On a CPU, wide results are computed in blocks that fit the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.separation.ops.dconv import add_dconv, blocks
from engine.separation.ops.device import is_eager_on_cpu

_HIDDEN_VALUES = 1 << 20  # of a block between the two linear layers, on a CPU


class TorchOps:
    """Ops by torch."""

    def convolved(self, conv: Any, x: Tensor, *, activate: bool = False) -> Tensor:
        """Convolve, with an optional GELU."""
        weight, stride, padding = in_two_dimensions(conv)
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, conv.bias, stride, padding).permute(0, 2, 3, 1).contiguous()
        return activated(y) if activate else y

    def spread(self, conv: Any, x: Tensor, pad: int, *, activate: bool) -> Tensor:
        """Apply a transposed convolution, cut `pad` bins or frames from both sides; optional GELU."""
        weight, stride, _ = in_two_dimensions(conv)
        padding = [pad, 0] if conv.weight.dim() == 4 else [0, pad]
        y = F.conv_transpose2d(x.permute(0, 3, 1, 2), weight, conv.bias, stride, padding)
        y = y.permute(0, 2, 3, 1).contiguous()
        return activated(y) if activate else y

    def gated(self, conv: Any, x: Tensor) -> Tensor:
        """Convolve and apply GLU over the channels."""
        if max(conv.kernel_size) > 1:
            return F.glu(self.convolved(conv, x), dim=-1)
        channels = x.shape[-1]
        out = torch.empty_like(x)
        weight, bias = conv.weight.flatten(1).T, conv.bias
        for part, gated in zip(blocks(x, channels), blocks(out, channels), strict=True):
            gate = torch.addmm(bias[channels:], part, weight[:, channels:]).sigmoid_()
            torch.mul(torch.addmm(bias[:channels], part, weight[:, :channels]), gate, out=gated)
        return out

    def mixed(self, conv: Any, x: Tensor) -> Tensor:
        """Apply a convolution of width one. x: (batch, channels, frames), as in Demucs."""
        out: Tensor = conv(x)
        return out

    def add_dconv(self, branch: Any, x: Tensor) -> None:
        """Add a branch of DConv to its input `x` (rows, frames, channels), in place."""
        add_dconv(branch, x)

    def add_attention(
        self, x: Tensor, scale: Any, attention: nn.MultiheadAttention, query_input: Tensor, key_input: Tensor
    ) -> Tensor:
        """Return `x + scale(attention(query_input, key_input, key_input))`.

        x, query_input: (batch, length, channels); key_input: (batch, other length, channels). The fast path of
        `nn.MultiheadAttention` is not used: it writes all scores to memory.
        """
        channels, heads = attention.embed_dim, attention.num_heads
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        if query_input is key_input:
            query, key, value = F.linear(query_input, weight, bias).chunk(3, dim=-1)
        else:
            query = F.linear(query_input, weight[:channels], bias[:channels])
            key, value = F.linear(key_input, weight[channels:], bias[channels:]).chunk(2, dim=-1)
        query, key, value = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return added(x, scale, F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias))

    def add_feed_forward(self, x: Tensor, scale: Any, layer: Any, normed: Tensor) -> Tensor:
        """Return `x + scale(layer.linear2(layer.activation(layer.linear1(normed))))`."""
        first, second = layer.linear1, layer.linear2
        if not is_eager_on_cpu(x):
            return added(x, scale, second(layer.activation(first(normed))))
        out = torch.empty_like(normed, memory_format=torch.contiguous_format)
        rows = max(64, _HIDDEN_VALUES // first.out_features)
        parts = (torch.split(whole.flatten(0, -2), rows) for whole in (normed, out))
        for part, made in zip(*parts, strict=True):
            hidden = layer.activation(torch.addmm(first.bias, part, first.weight.T))
            torch.addmm(second.bias, hidden, second.weight.T, out=made)
        return added(x, scale, out)


def in_two_dimensions(conv: Any) -> tuple[Tensor, list[int], list[int]]:
    """Return weight, stride and padding over bins and frames."""
    if conv.weight.dim() == 4:
        return conv.weight, list(conv.stride), list(conv.padding)
    return conv.weight[:, :, None], [1, *conv.stride], [0, *conv.padding]


def activated(x: Tensor) -> Tensor:
    """Apply `F.gelu` in place."""
    torch.ops.aten.gelu_(x)
    return x


def added(x: Tensor, scale: Any, change: Tensor) -> Tensor:
    """Return `x + scale(change)` for a `LayerScale` or identity; overwrites `change` in eager mode on a CPU."""
    if isinstance(scale, nn.Identity) or not is_eager_on_cpu(x):  # on a GPU `change` may have half precision
        added: Tensor = x + scale(change)
        return added
    return torch.addcmul(x, scale.scale, change, out=change)


TORCH = TorchOps()
