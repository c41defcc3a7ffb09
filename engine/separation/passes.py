"""A batch of windows through a network, in as many passes as the device's memory asks for."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from engine.errors import OutOfMemory
from engine.separation import gpu
from engine.separation.forward import Forward, forward_of
from engine.separation.kernels import Kernels
from engine.separation.loaded import LoadedModel

CPU_TOOK_OVER = "The GPU's memory did not suffice, so the CPU took over."


class Passes:
    """The device, and how much it can take at once. Used by one thread."""

    def __init__(
        self,
        device: torch.device,
        *,
        precision: str,
        max_batch: int | None,
        allow_cpu: bool,
        kernels: Kernels | None,
        compiled: bool,
    ) -> None:
        """As `Batcher`."""
        on_gpu = device.type == "cuda"
        self.device = device
        self.max_batch = max_batch or (gpu.BATCH_SIZES[-1] if on_gpu else 1)
        self.gave_up_gpu = False
        self._first_limit = 1 if on_gpu else self.max_batch  # until a GPU's memory has been measured
        self._precision = gpu.precision_of(precision, device)
        self._allow_cpu = allow_cpu
        self._kernels = kernels
        self._compiled = compiled
        self._graphs = gpu.GraphPool()
        self._limits: weakref.WeakKeyDictionary[LoadedModel, int] = weakref.WeakKeyDictionary()

    def limit(self, model: LoadedModel) -> int:
        """How many segments a batch may have."""
        return self._limits.get(model, self._first_limit)

    def stems(
        self, model: LoadedModel, member: int, windows: list[Tensor], note: Callable[[str], None]
    ) -> list[Tensor]:
        """(channels, samples) each → (sources, channels, samples) each. `note` is told what the user should know.
        Raises `OutOfMemory` when not even one fits."""
        try:
            return self._one_pass(model, member, windows)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        # Here, not above: the error would keep the failed pass and its tensors.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(windows) > 1:
            half = len(windows) // 2
            self._limits[model] = half
            note("The batch was halved for want of memory.")
            first = [stems.clone() for stems in self.stems(model, member, windows[:half], note)]
            return first + self.stems(model, member, windows[half:], note)
        if self.device.type == "cpu" or not self._allow_cpu:
            raise OutOfMemory
        note(CPU_TOOK_OVER)
        model.forget_placed(self.device)
        self.device = torch.device("cpu")
        self.max_batch = self._first_limit = 1
        self.gave_up_gpu = True
        self._limits.clear()
        return self.stems(model, member, windows, note)

    def _one_pass(self, model: LoadedModel, member: int, windows: list[Tensor]) -> list[Tensor]:
        forward = self._forward(model, member)
        together = self._on_device(windows)
        if isinstance(forward, gpu.GpuForward) and model not in self._limits:
            segment_bytes, free_bytes = gpu.measured_bytes(partial(forward.plain, together[:1]), self.device)
            self._limits[model] = gpu.fitting_batch(self.max_batch, free_bytes, segment_bytes)
        return list(forward(together))

    def _on_device(self, windows: list[Tensor]) -> Tensor:
        if self.device.type == "cpu":
            return torch.stack(windows)
        together = torch.empty(len(windows), *windows[0].shape, device=self.device)
        for place, window in zip(together, windows, strict=True):
            place.copy_(window, non_blocking=True)
        return together

    def _forward(self, model: LoadedModel, member: int) -> Forward:
        if self.device.type == "cuda":
            return model.placed(
                member,
                self.device,
                partial(gpu.GpuForward, precision=self._precision, compiled=self._compiled, pool=self._graphs),
                kind=(self._precision, self._compiled),
                own=True,
            )
        return model.placed(member, self.device, partial(forward_of, kernels=self._kernels), kind=id(self._kernels))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text or "ALLOC_FAILED" in text
