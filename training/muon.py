"""Muon: momentum whose update is made orthogonal, so that every direction of a weight matrix learns at one speed.

Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024); the scale is that of Liu et al.,
"Muon is scalable for LLM training" (arXiv:2502.16982), which matches AdamW's usual step size. A kernel of a convolution
counts as the matrix (first axis, all others). On this model it needs far fewer steps than AdamW for the same loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest orthogonal matrix, roughly (singular values 0.7 to 1.2), by a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """For parameters of two axes or more."""

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(state["momentum"], group["momentum"]).reshape(p.shape[0], -1)
                update = orthogonal(ahead) * (0.2 * max(ahead.shape) ** 0.5)
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view_as(p), alpha=-group["lr"])
