"""A batch of windows through a network, in as many passes as the device's memory asks for."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from engine.errors import OutOfMemory
from engine.separation.cuda import graphs as gpu
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.native.library import NativeLibrary
from engine.separation.network.forward import Forward, forward_of
from engine.separation.ops.device import WINDOWS_AT_ONCE, is_out_of_memory, threads_of_a_window
from engine.separation.schedule.two_lanes import TwoLanes

log = logging.getLogger(__name__)

HALVED = "The batch was halved for want of memory."
CPU_TOOK_OVER = "The GPU's memory did not suffice, so the CPU took over."
FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 960.0
"""After a want of memory: how long until as much is asked for as at first. Twice as long each time in a row."""


class Executor:
    """The device, and how much it can take at once. Used by one thread.

    Want of memory is taken for a passing state (another program may have been there): for a while the batches are
    smaller, or the CPU stands in for a GPU, and then it is tried anew."""

    def __init__(
        self,
        device: torch.device,
        *,
        precision: str,
        max_batch: int | None,
        allow_cpu: bool,
        kernels: NativeLibrary | None,
        effort: gpu.Effort,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """As `Batcher`. `clock`: seconds, for tests."""
        self.home = device
        self.device = device  # where it works now: `home`, or the CPU in its place
        self._beside: TwoLanes | None = None
        self._most = max_batch or (gpu.BATCH_SIZES[-1] if device.type == "cuda" else 1)
        threads, share = torch.get_num_threads(), threads_of_a_window()
        if max_batch is None and device.type == "cpu" and share < threads:
            self._most, self._beside = WINDOWS_AT_ONCE, TwoLanes(threads, share)
        self._clock = clock
        self._pause_s = FIRST_PAUSE_S
        self._look_again_at: float | None = None
        self._looked_at = -LONGEST_PAUSE_S
        self._precision = gpu.precision_of(precision, device)
        self._allow_cpu = allow_cpu
        self._kernels = kernels
        self._effort = effort
        self._graphs = gpu.GraphPool()
        self._limits: weakref.WeakKeyDictionary[LoadedModel, int] = weakref.WeakKeyDictionary()

    @property
    def max_batch(self) -> int:
        """How many segments a batch may have at most, whatever the model."""
        return 1 if self.stands_in else self._most

    @property
    def stands_in(self) -> bool:
        """Whether the CPU works in place of a GPU."""
        return self.device != self.home

    @property
    def wants_pairs(self) -> bool:
        """Whether a window had better wait for a second one: alone, with all threads, it takes more than half as long
        as two do, and differs in the last bits."""
        return self._beside is not None

    def rest(self) -> None:
        """Nothing will come for a while."""
        if self._beside is not None:
            self._beside.close()

    def limit(self, model: LoadedModel) -> int:
        """How many segments a batch may have."""
        unmeasured = 1 if self.device.type == "cuda" else self.max_batch
        return self._limits.get(model, unmeasured)

    def stems(
        self, model: LoadedModel, member: int, windows: list[Tensor], note: Callable[[str], None]
    ) -> list[Tensor]:
        """(channels, samples) each → (sources, channels, samples) each. `note` is told what the user should know.
        Raises `OutOfMemory` when not even one fits."""
        if self._look_again_at is not None and self._clock() >= self._look_again_at:
            self._look_again()
        return self._stems(model, member, windows, note)

    def _stems(
        self, model: LoadedModel, member: int, windows: list[Tensor], note: Callable[[str], None]
    ) -> list[Tensor]:
        if self.stands_in:
            note(CPU_TOOK_OVER)
        try:
            return self._one_pass(model, member, windows)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Here, not above: the error would keep the failed pass and its tensors.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(windows) > 1:
            self._be_patient()
            half = len(windows) // 2
            self._limits[model] = half
            note(HALVED)
            first = [stems.clone() for stems in self._stems(model, member, windows[:half], note)]
            return first + self._stems(model, member, windows[half:], note)
        if self.device.type == "cpu" or not self._allow_cpu:
            raise OutOfMemory
        self._be_patient()
        log.warning("%s has no memory left for %s: the CPU stands in for %.0f s", self.home, model.name, self._pause_s)
        model.forget_placed(self.device)
        self.device = torch.device("cpu")
        self._limits.clear()
        return self._stems(model, member, windows, note)

    def _be_patient(self) -> None:
        if self._look_again_at is not None:
            return
        now = self._clock()
        in_a_row = now - self._looked_at < self._pause_s
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s) if in_a_row else FIRST_PAUSE_S
        self._look_again_at = now + self._pause_s

    def _look_again(self) -> None:
        self._look_again_at, self._looked_at = None, self._clock()
        self._limits.clear()
        self.device = self.home

    def _one_pass(self, model: LoadedModel, member: int, windows: list[Tensor]) -> list[Tensor]:
        forward = self._forward(model, member)
        if self._beside is not None and len(windows) > 1:
            return self._beside(forward, windows)
        together = self._on_device(windows)
        if isinstance(forward, gpu.CudaForward):
            self._prepare(forward, model, together)
        return list(forward(together))

    def _prepare(self, forward: gpu.CudaForward, model: LoadedModel, like: Tensor) -> None:
        if model not in self._limits:
            full = like.new_zeros(1, like.shape[1], max(like.shape[-1], forward.usual_samples))
            segment_bytes, free_bytes = gpu.measured_bytes(partial(forward.plain, full), self.device)
            self._limits[model] = gpu.fitting_batch(self.max_batch, free_bytes, segment_bytes)
        self._limits[model] = forward.prepare(like, self._limits[model])

    def _on_device(self, windows: list[Tensor]) -> Tensor:
        if self.device.type == "cpu":
            return torch.stack(windows)
        together = torch.empty(len(windows), *windows[0].shape, device=self.device)
        for place, window in zip(together, windows, strict=True):
            place.copy_(window, non_blocking=True)
        return together

    def _forward(self, model: LoadedModel, member: int) -> Forward:
        if self.device.type == "cuda":
            build = partial(self._on_gpu, model, member)
            return model.placed(member, self.device, build, kind=(self._precision, self._effort), own=True)
        return model.placed(member, self.device, partial(forward_of, kernels=self._kernels), kind=id(self._kernels))

    def _on_gpu(self, model: LoadedModel, member: int, module: nn.Module) -> gpu.CudaForward:
        shape = model.shapes(None)[member]
        return gpu.CudaForward(
            module,
            precision=self._precision,
            usual_samples=shape.window_samples(shape.segment_samples),
            effort=self._effort,
            pool=self._graphs,
        )
