"""A member of a bag on a CUDA device: fixed batch sizes, each recorded once as a CUDA graph and then replayed."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.separation.cuda.batch_size import BATCH_SIZES, next_smaller, padded_size
from engine.separation.cuda.precision import to_half, use_precision
from engine.separation.network.forward import HybridForward, forward_of
from engine.separation.ops.device import is_out_of_memory

log = logging.getLogger(__name__)

_RECORDED_LENGTHS = 2  # only lengths that come again and again are worth a recording


@dataclass(frozen=True)
class Tuning:
    """What the first batches of a network may cost so that later ones are faster.

    Workers use none until `bench.gpu`, which tries both, has shown a gain.
    """

    search: bool = False  # cuDNN tries its algorithms: seconds for each batch size
    compiled: bool = False  # torch.compile: minutes, for one batch size


NO_TUNING = Tuning()


class GraphPool:
    """Memory that the recordings of one thread and stream share; only one of them runs at a time."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._graphs = weakref.WeakSet[torch.cuda.CUDAGraph]()

    def handle(self) -> Any:
        if self._handle is None or not self._graphs:  # torch frees a pool with the last of its graphs
            self._handle = torch.cuda.graph_pool_handle()
        return self._handle

    def add(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graphs.add(graph)

    def abandon(self, device: torch.device) -> None:
        """Leave the pool after a recording failed; otherwise this thread's next allocations might go into it."""
        with contextlib.suppress(RuntimeError, AttributeError, TypeError):
            torch._C._cuda_endAllocateToPool(device.index or 0, self._handle)
        self._handle = None


@dataclass(frozen=True)
class _Recording:
    """`constants`: what the graph reads beside the weights; it holds their addresses."""

    graph: torch.cuda.CUDAGraph
    windows: Tensor
    stems: Tensor
    constants: tuple[object, ...]


class CudaForward:
    """Windows in, stems out, without waiting for the device.

    The next call of any object with the same pool overwrites the result.
    """

    def __init__(
        self,
        member: nn.Module,
        *,
        precision: str,
        usual_samples: int,
        tuning: Tuning = NO_TUNING,
        pool: GraphPool | None = None,
    ) -> None:
        """Take over `member`, which is on the device. `usual_samples` is the length of a full window.

        `pool` is shared with others that run in the same thread.
        """
        self.usual_samples = usual_samples
        self._pool = pool or GraphPool()
        self._tuning = tuning
        self._unrecordable: set[tuple[int, int]] = set()
        self.precision = precision
        if precision == "fp16":
            to_half(member)
        self._forward = forward_of(member)
        self._recorded_forward = self._forward
        self._sizes: Sequence[int] = BATCH_SIZES
        self._prepared_batch = 0
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._uses: dict[tuple[int, int], int] = {}

    @property
    def recordings(self) -> int:
        return len(self._recordings)

    @property
    def unrecordable(self) -> int:
        """Shapes that run without a recording because one failed."""
        return len(self._unrecordable)

    def prepare(self, like: Tensor, max_batch: int) -> int:
        """Record full windows in every size up to `max_batch` and return the largest size that memory allows.

        The largest is recorded first, so that the others fit into its memory. `like` gives device and channels.
        """
        if max_batch <= self._prepared_batch:
            return max_batch
        if self._tuning.compiled and isinstance(self._forward, HybridForward):
            self._recorded_forward = self._forward.compiled()
            self._sizes = (max_batch,)
        for size in sorted((size for size in self._sizes if size <= max_batch), reverse=True):
            key = (size, self.usual_samples)
            try:
                if key not in self._recordings and key not in self._unrecordable:
                    self._record(key, like)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                torch.cuda.empty_cache()
                max_batch, self._sizes = next_smaller(size), BATCH_SIZES
        self._prepared_batch = max_batch
        return max_batch

    def drop_recordings(self) -> None:
        """Give up all recordings; the memory of a pool is free when the last recording in it is gone."""
        self._recordings.clear()
        self._uses.clear()
        self._prepared_batch = 0

    def __call__(self, windows: Tensor) -> Tensor:
        """Compute (batch, channels, samples) on the device → (batch, stems, channels, samples)."""
        count, samples = windows.shape[0], windows.shape[-1]
        key = (padded_size(count, self._sizes), samples)
        if key not in self._recordings:
            self._uses[key] = self._uses.get(key, 0) + 1
            lengths = {length for _, length in self._recordings} | {samples}
            is_rare = self._uses[key] < 2 or len(lengths) > _RECORDED_LENGTHS
            if is_rare or key in self._unrecordable or not self._record(key, windows):
                return self.eager(windows)
        recording = self._recordings[key]
        recording.windows[:count].copy_(windows)
        recording.graph.replay()
        return recording.stems[:count]

    def eager(self, windows: Tensor) -> Tensor:
        """Compute the same without a recording."""
        with use_precision(self.precision):
            return self._forward(windows)

    def _record(self, key: tuple[int, int], like: Tensor) -> bool:
        """Record a shape; return False if the network has a step that cannot be recorded.

        Raises `torch.OutOfMemoryError`.
        """
        try:
            graph, windows, stems = self._capture(key, like)
        except RuntimeError as error:
            self._pool.abandon(like.device)
            # When memory runs out during a recording, ending the recording fails as well.
            if is_out_of_memory(error) or (error.__context__ is not None and is_out_of_memory(error.__context__)):
                raise torch.OutOfMemoryError(str(error)) from None
            log.warning("batches of %d x %d samples run without a CUDA graph: %s", *key, error)
            self._unrecordable.add(key)
            return False
        forward = self._recorded_forward
        constants = forward.constants() if isinstance(forward, HybridForward) else ()
        self._recordings[key] = _Recording(graph, windows, stems, constants)
        return True

    def _capture(self, key: tuple[int, int], like: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        windows = like.new_zeros(key[0], like.shape[1], key[1])
        current = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        precision, search = self.precision, self._tuning.search
        with use_precision(precision, search=search), torch.cuda.stream(side):
            for _ in range(2):  # cuDNN chooses its algorithms, and the constants are made
                self._recorded_forward(windows)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may allocate pinned windows at the same time.
        recording = torch.cuda.graph(graph, pool=self._pool.handle(), capture_error_mode="thread_local")
        # A recording that fails leaves this thread on its own stream; `stream(current)` restores it.
        with torch.cuda.stream(current), use_precision(precision, search=search), recording:
            stems = self._recorded_forward(windows)
        self._pool.add(graph)
        return graph, windows, stems
