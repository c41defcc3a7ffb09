"""A member on a CUDA device: fixed batch sizes, each recorded once as a CUDA graph and replayed from then on."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from demucs.demucs import LocalState
from torch import Tensor, nn

from engine.separation.network.forward import HybridForward, forward_of
from engine.separation.ops.device import is_out_of_memory

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


def padded_size(count: int, sizes: Sequence[int] = BATCH_SIZES) -> int:
    """The fixed batch size that takes so many segments."""
    return next((size for size in sizes if size >= count), count)


def fitting_batch(max_batch: int, free_bytes: int, segment_bytes: int) -> int:
    """The largest fixed batch size, at most `max_batch`, of which the free memory takes enough segments."""
    room = min(max_batch, int(_USED_SHARE * free_bytes) // max(1, segment_bytes))
    return max((size for size in BATCH_SIZES if size <= room), default=1)


def precision_of(wanted: str, device: torch.device) -> str:
    """`fp32`, `tf32` or `fp16`: what "auto" means on a device."""
    if device.type != "cuda":
        return "fp32"
    return "fp16" if wanted == "auto" else wanted


@dataclass(frozen=True)
class Effort:
    """What a network's first batches may cost so that later ones are faster. Nobody has measured yet whether they are,
    so that a worker makes none; `bench.gpu` tries both."""

    search: bool = False  # cuDNN tries its algorithms: seconds for each batch size
    compiled: bool = False  # torch.compile: minutes, for one batch size


NO_EFFORT = Effort()


class GraphPool:
    """Memory that the recordings of one thread and stream share: never more than one of them is at work."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._graphs = weakref.WeakSet[torch.cuda.CUDAGraph]()

    def handle(self) -> Any:
        if self._handle is None or not self._graphs:  # torch gives up a pool with the last of its graphs
            self._handle = torch.cuda.graph_pool_handle()
        return self._handle

    def hold(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graphs.add(graph)

    def leave(self, device: torch.device) -> None:
        """After a recording that broke off, which torch may not have noticed: whatever this thread allocated next would
        go into its pool."""
        with contextlib.suppress(RuntimeError, AttributeError, TypeError):
            torch._C._cuda_endAllocateToPool(device.index or 0, self._handle)
        self._handle = None


@dataclass(frozen=True)
class _Recording:
    """`constants`: what the graph reads beside the weights. Their addresses are written into it."""

    graph: torch.cuda.CUDAGraph
    given: Tensor
    stems: Tensor
    constants: tuple[object, ...]


class CudaForward:
    """Windows in, stems out, without waiting for the device. The result is overwritten by the next call of any that
    shares its pool.

    `fp16`: convolutions, products and attention in half precision; transforms, norms and `LocalState` in single.
    `tf32`: single, with the tensor cores' short mantissa. `fp32`: single throughout.
    """

    def __init__(
        self,
        member: nn.Module,
        *,
        precision: str,
        usual_samples: int,
        effort: Effort = NO_EFFORT,
        pool: GraphPool | None = None,
    ) -> None:
        """`member` lies on the device and belongs to this object. `usual_samples`: the length of a full window. `pool`:
        memory shared with others whose work never overlaps."""
        self.usual_samples = usual_samples
        self._pool = pool or GraphPool()
        self._effort = effort
        self._not_recordable: set[tuple[int, int]] = set()
        self._precision = precision
        if precision == "fp16":
            to_half(member)
        self._forward = forward_of(member)
        self._recorded_forward = self._forward
        self._sizes: Sequence[int] = BATCH_SIZES
        self._prepared_for = 0
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._seen: dict[tuple[int, int], int] = {}

    def prepare(self, like: Tensor, most: int) -> int:
        """Record full windows in every batch size up to `most`, on the device and with the channels of `like`: the
        largest first, so that the others find room in its memory. The largest batch that there is memory for."""
        if most <= self._prepared_for:
            return most
        if self._effort.compiled and isinstance(self._forward, HybridForward):
            self._recorded_forward = self._forward.compiled()
            self._sizes = (most,)
        for size in sorted((size for size in self._sizes if size <= most), reverse=True):
            key = (size, self.usual_samples)
            try:
                if key not in self._recordings and key not in self._not_recordable:
                    self._record(key, like)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                torch.cuda.empty_cache()
                most, self._sizes = size // 2, BATCH_SIZES
        self._prepared_for = most
        return most

    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, channels, samples) on the device → (batch, stems, channels, samples)."""
        count, samples = windows.shape[0], windows.shape[-1]
        key = (padded_size(count, self._sizes), samples)
        if key not in self._recordings:
            self._seen[key] = self._seen.get(key, 0) + 1
            lengths = {length for _, length in self._recordings} | {samples}
            rare = self._seen[key] < 2 or len(lengths) > _RECORDED_SHAPES
            if rare or key in self._not_recordable or not self._record(key, windows):
                return self.plain(windows)
        recording = self._recordings[key]
        recording.given[:count].copy_(windows)
        recording.graph.replay()
        return recording.stems[:count]

    @property
    def recordings(self) -> int:
        return len(self._recordings)

    def plain(self, windows: Tensor) -> Tensor:
        """The same without a recording."""
        with self._tier():
            return self._forward(windows)

    def _record(self, key: tuple[int, int], like: Tensor) -> bool:
        """Whether it worked; a network with a step that cannot be recorded runs without. Raises `OutOfMemoryError`."""
        try:
            graph, given, stems = self._captured(key, like)
        except RuntimeError as error:
            self._pool.leave(like.device)
            # Where memory ends in the middle of a recording, ending that fails in turn.
            if is_out_of_memory(error) or (error.__context__ is not None and is_out_of_memory(error.__context__)):
                raise torch.OutOfMemoryError(str(error)) from None
            log.warning("batches of %d x %d samples run without a CUDA graph: %s", *key, error)
            self._not_recordable.add(key)
            return False
        forward = self._recorded_forward
        constants = forward.constants() if isinstance(forward, HybridForward) else ()
        self._recordings[key] = _Recording(graph, given, stems, constants)
        return True

    def _captured(self, key: tuple[int, int], like: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given = like.new_zeros(key[0], like.shape[1], key[1])
        here = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(here)
        with self._tier(search=self._effort.search), torch.cuda.stream(side):
            for _ in range(2):  # lets cuDNN choose, and makes the constants
                self._recorded_forward(given)
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile (pinned windows): only this one's calls are recorded.
        recording = torch.cuda.graph(graph, pool=self._pool.handle(), capture_error_mode="thread_local")
        # One that breaks off would leave this thread on its own stream.
        with torch.cuda.stream(here), self._tier(search=self._effort.search), recording:
            stems = self._recorded_forward(given)
        self._pool.hold(graph)
        return graph, given, stems

    @contextlib.contextmanager
    def _tier(self, *, search: bool = False) -> Iterator[None]:
        products = torch.backends.cuda.matmul
        before, products.allow_tf32 = products.allow_tf32, self._precision == "tf32"
        tf32 = self._precision != "fp32"
        try:
            with (
                torch.backends.cudnn.flags(enabled=True, benchmark=search, deterministic=False, allow_tf32=tf32),
                torch.autocast("cuda", dtype=torch.float16, enabled=self._precision == "fp16", cache_enabled=False),
            ):
                yield
        finally:
            products.allow_tf32 = before


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
    run()  # what is made once is made
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    return peak, torch.cuda.mem_get_info(device)[0]
