"""Batches of windows through a network, made smaller while the device is short of memory."""

from __future__ import annotations

import gc
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from engine.errors import OutOfMemory
from engine.separation.cuda.batch_size import USUAL_MAX_BATCH, fitting_batch, measure_bytes
from engine.separation.cuda.graphs import CudaForward, GraphPool, Tuning
from engine.separation.cuda.precision import is_finite, resolve_precision
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.native.library import NativeLibrary
from engine.separation.network.forward import Forward, forward_of
from engine.separation.ops.device import WINDOWS_AT_ONCE, is_out_of_memory, pinned_memory, threads_of_a_window
from engine.separation.schedule.two_lanes import TwoLanes

log = logging.getLogger(__name__)

UseStems = Callable[[int, Tensor], None]

HALVED = "The batch was halved for want of memory."
CPU_TOOK_OVER = "The GPU's memory did not suffice, so the CPU took over."
FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 960.0
"""How long batches stay small after memory ran out; doubled when it runs out again right afterwards."""


class Executor:
    """The device of a worker, and how much it can compute at once. Used by one thread.

    A lack of memory may pass when another program ends. For a while the batches are smaller, or the CPU stands in for a
    GPU; then the full size is tried again.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        precision: str,
        max_batch: int | None,
        allow_cpu: bool,
        native: NativeLibrary | None,
        tuning: Tuning,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the options of `Batcher`; `clock` returns seconds."""
        self.home = device
        self.device = device  # the device in use: `home`, or the CPU in its place
        self._lanes: TwoLanes | None = None
        self._max_batch = max_batch or (USUAL_MAX_BATCH if device.type == "cuda" else 1)
        threads, share = torch.get_num_threads(), threads_of_a_window()
        if max_batch is None and device.type == "cpu" and share < threads:
            self._max_batch, self._lanes = WINDOWS_AT_ONCE, TwoLanes(threads, share)
        self._clock = clock
        self._pause_s = FIRST_PAUSE_S
        self._pause_ends_at: float | None = None
        self._last_pause_ended_at = -LONGEST_PAUSE_S
        self._precision = resolve_precision(precision, device)
        self._allow_cpu = allow_cpu
        self._native = native
        self._tuning = tuning
        self._graphs = GraphPool()
        self._forwards = weakref.WeakSet[CudaForward]()
        self._models = weakref.WeakSet[LoadedModel]()
        self._overflowing = weakref.WeakSet[LoadedModel]()  # in half precision, at least once
        self._limits: weakref.WeakKeyDictionary[LoadedModel, int] = weakref.WeakKeyDictionary()

    @property
    def max_batch(self) -> int:
        """How many segments a batch may have, whatever the model."""
        return 1 if self.stands_in else self._max_batch

    @property
    def stands_in(self) -> bool:
        """Whether the CPU works in place of a GPU."""
        return self.device != self.home

    @property
    def wants_pairs(self) -> bool:
        """Whether a window should wait for a second one.

        Alone, with all threads, it takes more than half as long as two, and differs in the last bits.
        """
        return self._lanes is not None

    def stop_threads(self) -> None:
        """End the threads of the CPU; the next batch starts them again."""
        if self._lanes is not None:
            self._lanes.close()

    def limit(self, model: LoadedModel) -> int:
        """Return how many segments a batch of a model may have."""
        unmeasured = 1 if self.device.type == "cuda" else self.max_batch
        return self._limits.get(model, unmeasured)

    def compute(
        self,
        model: LoadedModel,
        member: int,
        windows: Sequence[Tensor],
        use: UseStems,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Compute (channels, samples) windows and pass each result, (sources, channels, samples), to `use` in order.

        `use(index, stems)` runs before the next pass, which may overwrite `stems`; where it runs out of memory it is
        called again for the same window. `note` gets sentences for the user. Raises `OutOfMemory` when not even one
        window fits.
        """
        if self._pause_ends_at is not None and self._clock() >= self._pause_ends_at:
            self._end_pause()
        done, size = 0, len(windows)
        while done < len(windows):
            if self.stands_in:
                note(CPU_TOOK_OVER)
            size = min(size, len(windows) - done)
            used = self._compute_together(model, member, windows[done : done + size], partial(_from, done, use))
            done += used
            if used == size:
                continue
            if size > 1:
                size //= 2
                self._start_pause()
                self._drop_recordings()
                self._limits[model] = size
                note(HALVED)
            elif self.device.type == "cpu" or not self._allow_cpu:
                raise OutOfMemory
            else:
                self._start_pause()
                log.warning(
                    "%s is out of memory for %s: the CPU works for %.0f s", self.home, model.name, self._pause_s
                )
                self._leave_gpu()

    def _compute_together(self, model: LoadedModel, member: int, windows: Sequence[Tensor], use: UseStems) -> int:
        """Compute windows in one pass; return how many results were used before memory ran out.

        The error ends here: it would keep the tensors of the failed pass.
        """
        used = 0
        try:
            for stems in self._one_pass(model, member, windows):
                use(used, stems)
                used += 1
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        return used

    def _start_pause(self) -> None:
        if self._pause_ends_at is not None:
            return
        now = self._clock()
        in_a_row = now - self._last_pause_ended_at < self._pause_s
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s) if in_a_row else FIRST_PAUSE_S
        self._pause_ends_at = now + self._pause_s

    def _end_pause(self) -> None:
        self._pause_ends_at, self._last_pause_ended_at = None, self._clock()
        self._limits.clear()
        self.device = self.home

    def _leave_gpu(self) -> None:
        """Release the GPU memory of all models and continue on the CPU."""
        _wait_for(self.device)
        for model in self._models:
            model.forget_placed(self.device)
        _empty_cache(self.device)
        self.device = torch.device("cpu")
        self._limits.clear()

    def _drop_recordings(self) -> None:
        """Free the pool: the recordings of all models share it, so smaller ones keep the memory of larger ones."""
        _wait_for(self.device)
        for forward in self._forwards:
            forward.drop_recordings()
        _empty_cache(self.device)

    def _one_pass(self, model: LoadedModel, member: int, windows: Sequence[Tensor]) -> Iterable[Tensor]:
        forward = self._forward(model, member)
        if self._lanes is not None and len(windows) > 1:
            return self._lanes(forward, list(windows))
        batch = self._to_device(windows)
        if not isinstance(forward, CudaForward):
            return forward(batch)
        self._prepare(forward, model, batch)
        stems = forward(batch)
        if forward.precision == "fp16" and not is_finite(stems):
            if model not in self._overflowing:
                self._overflowing.add(model)
                log.warning("%s overflows half precision: such batches are computed again in single", model.name)
            stems = self._forward(model, member, "tf32")(batch)
        return stems

    def _prepare(self, forward: CudaForward, model: LoadedModel, like: Tensor) -> None:
        if model not in self._limits:
            full = like.new_zeros(1, like.shape[1], max(like.shape[-1], forward.usual_samples))
            segment_bytes, free_bytes = measure_bytes(partial(forward.eager, full), self.device)
            self._limits[model] = fitting_batch(self.max_batch, free_bytes, segment_bytes)
        self._limits[model] = forward.prepare(like, self._limits[model])

    def _to_device(self, windows: Sequence[Tensor]) -> Tensor:
        if self.device.type != "cuda":
            return torch.stack(list(windows)).to(self.device)
        # A copy from ordinary memory would wait for the batch that the GPU computes.
        staged = pinned_memory(len(windows), *windows[0].shape)
        return torch.stack(list(windows), out=staged).to(self.device, non_blocking=True)

    def _forward(self, model: LoadedModel, member: int, precision: str | None = None) -> Forward:
        if self.device.type == "cuda":
            self._models.add(model)
            precision = precision or self._precision
            build = partial(self._cuda_forward, model, member, precision)
            return model.placed(member, self.device, build, kind=(precision, self._tuning), own=True)
        return model.placed(member, self.device, partial(forward_of, native=self._native), kind=id(self._native))

    def _cuda_forward(self, model: LoadedModel, member: int, precision: str, module: nn.Module) -> CudaForward:
        shape = model.shapes(None)[member]
        forward = CudaForward(
            module,
            precision=precision,
            usual_samples=shape.window_samples(shape.segment_samples),
            tuning=self._tuning,
            pool=self._graphs,
        )
        self._forwards.add(forward)
        return forward


def _from(first: int, use: UseStems, index: int, stems: Tensor) -> None:
    use(first + index, stems)


def _wait_for(device: torch.device) -> None:
    if _is_open(device):
        torch.accelerator.synchronize(device)


def _empty_cache(device: torch.device) -> None:
    if _is_open(device):
        gc.collect()  # networks are in cycles
        torch.accelerator.empty_cache()


def _is_open(device: torch.device) -> bool:
    """Return whether this process uses the GPU; to ask would open it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    return device.type in ("xpu", "mps")
