"""Muon: momentum whose update is made orthogonal, so that every direction of a weight matrix learns at one speed.

Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024); the scale is that of Liu et al.,
"Muon is scalable for LLM training" (arXiv:2502.16982), which matches AdamW's usual step size. A kernel of a convolution
counts as the matrix (first axis, all others). On this model it needs far fewer steps than AdamW for the same loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.processes import summed


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Return roughly the nearest orthogonal matrix (singular values 0.7 to 1.2) by quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """For parameters of two axes or more. Several processes share the computation of the updates."""

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for p, update in zip(parameters, self._updates(parameters, group["momentum"]), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])

    def _updates(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        """Return the update of each parameter before the learning rate. Every process keeps all momenta."""
        processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        largest_first = sorted(range(len(parameters)), key=lambda index: -parameters[index].numel())
        mine = set(largest_first[rank::processes])
        updates: list[Tensor] = []
        for index, p in enumerate(parameters):
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            assert p.grad is not None
            state["momentum"].lerp_(p.grad, 1 - momentum)
            if index in mine:
                ahead = p.grad.lerp(state["momentum"], momentum).reshape(p.shape[0], -1)
                updates.append((orthogonal(ahead) * (0.2 * max(ahead.shape) ** 0.5)).view_as(p))
            else:
                updates.append(torch.zeros_like(p))
        return summed(updates) if processes > 1 else updates
