"""The products that a pass through Demucs consists of: convolutions, attention, and what is gated or added to them.

By torch here, wherever the tensors are; `engine.separation.native.ops` has the same for a CPU, compiled. On a CPU
the channels of a moment lie side by side, (batch, bins, frames, channels), which is what oneDNN's convolutions want;
time layers have one bin. What is wide is made in blocks that stay in the cache, from the product to the gate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.separation.ops.dconv import add_dconv, blocks
from engine.separation.ops.device import is_eager_on_cpu

_HIDDEN = 1 << 20  # values between the two products of a transformer's layer that are made at once on a CPU


class TorchOps:
    """By torch."""

    def convolved(self, conv: Any, x: Tensor, *, activate: bool = False) -> Tensor:
        """A convolution, and GELU if need be."""
        weight, stride, padding = in_two_dimensions(conv)
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, conv.bias, stride, padding).permute(0, 2, 3, 1).contiguous()
        return activated(y) if activate else y

    def spread(self, conv: Any, x: Tensor, pad: int, *, activate: bool) -> Tensor:
        """A transposed convolution without `pad` bins, or frames, on either side, and GELU if need be."""
        weight, stride, _ = in_two_dimensions(conv)
        padding = [pad, 0] if conv.weight.dim() == 4 else [0, pad]
        y = F.conv_transpose2d(x.permute(0, 3, 1, 2), weight, conv.bias, stride, padding)
        y = y.permute(0, 2, 3, 1).contiguous()
        return activated(y) if activate else y

    def gated(self, conv: Any, x: Tensor) -> Tensor:
        """A convolution, and half of its channels as the gate of the others."""
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
        """A convolution of width one. x: (batch, channels, frames), as Demucs has it."""
        out: Tensor = conv(x)
        return out

    def add_dconv(self, branch: Any, x: Tensor) -> None:
        """Add to `x` (rows, frames, channels) what a residual branch makes of it."""
        add_dconv(branch, x)

    def add_attention(
        self, x: Tensor, scale: Any, attention: nn.MultiheadAttention, asks: Tensor, answers: Tensor
    ) -> Tensor:
        """`x + scale(attention(asks, answers, answers))`, without the fast path of `nn.MultiheadAttention`, which
        writes all scores to memory. x, asks: (batch, length, channels); answers: (batch, other length, channels)."""
        channels, heads = attention.embed_dim, attention.num_heads
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        if asks is answers:
            query, key, value = F.linear(asks, weight, bias).chunk(3, dim=-1)
        else:
            query = F.linear(asks, weight[:channels], bias[:channels])
            key, value = F.linear(answers, weight[channels:], bias[channels:]).chunk(2, dim=-1)
        query, key, value = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return added(x, scale, F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias))

    def add_feed_forward(self, x: Tensor, scale: Any, layer: Any, normed: Tensor) -> Tensor:
        """`x + scale(layer.linear2(layer.activation(layer.linear1(normed))))`."""
        first, second = layer.linear1, layer.linear2
        if not is_eager_on_cpu(x):
            return added(x, scale, second(layer.activation(first(normed))))
        out = torch.empty_like(normed, memory_format=torch.contiguous_format)
        rows = max(64, _HIDDEN // first.out_features)
        parts = (torch.split(whole.flatten(0, -2), rows) for whole in (normed, out))
        for part, made in zip(*parts, strict=True):
            hidden = layer.activation(torch.addmm(first.bias, part, first.weight.T))
            torch.addmm(second.bias, hidden, second.weight.T, out=made)
        return added(x, scale, out)


def in_two_dimensions(conv: Any) -> tuple[Tensor, list[int], list[int]]:
    """Weight, stride and padding over bins and frames."""
    if conv.weight.dim() == 4:
        return conv.weight, list(conv.stride), list(conv.padding)
    return conv.weight[:, :, None], [1, *conv.stride], [0, *conv.padding]


def activated(x: Tensor) -> Tensor:
    """`F.gelu`, in place."""
    torch.ops.aten.gelu_(x)
    return x


def added(x: Tensor, scale: Any, change: Tensor) -> Tensor:
    """`x + scale(change)`, where scale is a `LayerScale` or nothing; in eager mode in place of `change`."""
    if isinstance(scale, nn.Identity) or not is_eager_on_cpu(x):  # a GPU's change may be of half precision
        added: Tensor = x + scale(change)
        return added
    return torch.addcmul(x, scale.scale, change, out=change)


TORCH = TorchOps()
