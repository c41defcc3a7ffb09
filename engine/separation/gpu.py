"""A member on a CUDA device: fixed batch sizes, each recorded once as a CUDA graph and replayed from then on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from demucs.demucs import LocalState
from torch import Tensor, nn

from engine.separation.forward import HybridForward, forward_of

log = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 4, 8, 16)
_RECORDED_SHAPES = 2  # per batch size: only the lengths that come again and again are worth a recording
_HALVED = (
    nn.Conv1d,
    nn.Conv2d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.Linear,
    nn.MultiheadAttention,
)
_USED_SHARE = 0.7  # of the free memory


def padded_size(count: int) -> int:
    """The fixed batch size that takes so many segments."""
    return next((size for size in BATCH_SIZES if size >= count), count)


def fitting_batch(max_batch: int, free_bytes: int, segment_bytes: int) -> int:
    """The largest fixed batch size, at most `max_batch`, of which the free memory takes enough segments."""
    room = min(max_batch, int(_USED_SHARE * free_bytes) // max(1, segment_bytes))
    return max((size for size in BATCH_SIZES if size <= room), default=1)


def precision_of(wanted: str, device: torch.device) -> str:
    """`fp32`, `tf32` or `fp16`: what "auto" means on a device."""
    if device.type != "cuda":
        return "fp32"
    return "fp16" if wanted == "auto" else wanted


class GraphPool:
    """Memory that the recordings of one thread and stream share: never more than one of them is at work."""

    def __init__(self) -> None:
        self._handle: Any = None

    def handle(self) -> Any:
        if self._handle is None:
            self._handle = torch.cuda.graph_pool_handle()
        return self._handle


class GpuForward:
    """Windows in, stems out, without waiting for the device. The result is overwritten by the next call with a batch
    of the same size.

    `fp16`: convolutions, products and attention in half precision; transforms, norms and `LocalState` in single.
    `tf32`: single, with the tensor cores' short mantissa. `fp32`: single throughout.
    """

    def __init__(
        self, member: nn.Module, *, precision: str, compiled: bool = False, pool: GraphPool | None = None
    ) -> None:
        """`member` lies on the device and belongs to this object. `compiled`: also through torch.compile, which takes
        minutes at the first batch of a size. `pool`: memory shared with others whose work never overlaps."""
        self._pool = pool or GraphPool()
        self._not_recordable: set[tuple[int, int]] = set()
        self._precision = precision
        if precision == "fp16":
            to_half(member)
        self._forward = forward_of(member)
        if compiled and isinstance(self._forward, HybridForward):
            core: Any = self._forward.core
            core.forward = torch.compile(core.forward, dynamic=False)
        self._recordings: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._seen: dict[tuple[int, int], int] = {}

    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, channels, samples) on the device → (batch, stems, channels, samples)."""
        count, samples = windows.shape[0], windows.shape[-1]
        key = (padded_size(count), samples)
        if key not in self._recordings:
            self._seen[key] = self._seen.get(key, 0) + 1
            lengths = {length for _, length in self._recordings} | {samples}
            rare = self._seen[key] < 2 or len(lengths) > _RECORDED_SHAPES
            if rare or key in self._not_recordable or not self._record(key, windows):
                return self.plain(windows)
        graph, given, stems = self._recordings[key]
        given[:count].copy_(windows)
        graph.replay()
        return stems[:count]

    def plain(self, windows: Tensor) -> Tensor:
        """The same without a recording."""
        with self._tier():
            return self._forward(windows)

    def _record(self, key: tuple[int, int], windows: Tensor) -> bool:
        """Whether it worked; a network with a step that cannot be recorded runs without."""
        try:
            self._recordings[key] = self._recorded(key, windows)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.warning("batches of %d x %d samples run without a CUDA graph: %s", *key, error)
            self._not_recordable.add(key)
            return False
        return True

    def _recorded(self, key: tuple[int, int], windows: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given = windows.new_zeros(key[0], *windows.shape[1:])
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with self._tier(), torch.cuda.stream(side):
            for _ in range(2):  # lets cuDNN choose, and makes the constants
                self._forward(given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile (pinned windows): only this one's calls are recorded.
        with self._tier(), torch.cuda.graph(graph, pool=self._pool.handle(), capture_error_mode="thread_local"):
            stems = self._forward(given)
        return graph, given, stems

    @contextlib.contextmanager
    def _tier(self) -> Iterator[None]:
        tf32 = self._precision != "fp32"
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=tf32),
            torch.autocast("cuda", dtype=torch.float16, enabled=self._precision == "fp16", cache_enabled=False),
        ):
            yield


def to_half(member: nn.Module) -> None:
    """Halve the weights that autocast would halve in every pass. HDemucs' local attention stays single: it adds a
    penalty that grows with the distance, too fine for half precision."""
    single: set[nn.Module] = set()
    for module in member.modules():
        if isinstance(module, LocalState):
            single.update(module.modules())
            attend: Callable[[Tensor], Tensor] = module.forward
            module.forward = _single(attend)  # type: ignore[method-assign]
        elif module not in single and isinstance(module, _HALVED):
            module.half()


def _single(attend: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def in_single(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return attend(x.float())

    return in_single


def measured_bytes(run: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """(bytes that `run` takes at its peak, bytes that are free beside it)."""
    run()  # cuDNN tries its algorithms at the first time, some with much more memory
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    return peak, torch.cuda.mem_get_info(device)[0]
