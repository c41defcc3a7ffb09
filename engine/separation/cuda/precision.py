"""The precisions of a CUDA device: which weights are half, and which of torch's switches a pass needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from demucs.demucs import BLSTM, LocalState
from demucs.hdemucs import HDecLayer
from torch import Tensor, nn

_HALF_TYPES = (
    nn.Conv1d,
    nn.Conv2d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.Linear,
    nn.MultiheadAttention,
)


def resolve_precision(setting: str, device: torch.device) -> str:
    """Return `fp32`, `tf32` or `fp16`: what the setting, which may be `auto`, means on a device."""
    if device.type != "cuda":
        return "fp32"
    return "fp16" if setting == "auto" else setting


@contextlib.contextmanager
def use_precision(precision: str, *, search: bool = False) -> Iterator[None]:
    """Set torch's switches for passes in a precision and restore them at the end.

    `fp32` is single precision and `tf32` single with the short mantissa of the tensor cores. `fp16` computes
    convolutions, products and attention in half, and transforms, norms and what `to_half` leaves single in `tf32`.
    With `search`, cuDNN tries its algorithms for each new shape.
    """
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, precision == "tf32"
    tf32 = precision != "fp32"
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=search, deterministic=False, allow_tf32=tf32),
            torch.autocast("cuda", dtype=torch.float16, enabled=precision == "fp16", cache_enabled=False),
        ):
            yield
    finally:
        matmul.allow_tf32 = before


def is_finite(stems: Tensor) -> bool:
    """Return whether all values are finite; waits for the device."""
    lowest, highest = torch.aminmax(stems)  # both are NaN if one value is
    return bool(torch.isfinite(highest - lowest))


def to_half(member: nn.Module) -> None:
    """Convert the weights to half that autocast would convert in every pass, except those of `_single_modules`."""
    single: set[nn.Module] = set()
    for module in _single_modules(member):
        single.update(module.modules())
        forward: Callable[[Tensor], Tensor] = module.forward
        module.forward = _in_single(forward)
    for module in member.modules():
        if module not in single and isinstance(module, _HALF_TYPES):
            module.half()


def _single_modules(member: nn.Module) -> list[nn.Module]:
    """Return the modules whose results half precision would spoil.

    The penalty of `LocalState`, the attention of HDemucs, grows with the distance; the states of its LSTMs carry their
    rounding on; the last layers write the result, in which a quiet passage can lie beside a loud one.
    """
    found: list[nn.Module] = []
    for module in member.modules():
        if isinstance(module, (BLSTM, LocalState)):
            found.append(module)
        elif isinstance(module, HDecLayer) and module.last:
            found.append(module.conv_tr)
    return found


def _in_single(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def in_single(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    return in_single
