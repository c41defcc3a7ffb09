"""What a GPU is asked to do, as far as that can be tried without one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from demucs.demucs import LocalState

from engine.errors import OutOfMemory
from engine.separation.cuda import batch_size, graphs, precision
from engine.separation.cuda.graphs import CudaForward
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.network.forward import HybridForward
from engine.separation.ops.device import device_is_lost, is_out_of_memory
from engine.separation.schedule import memory_backoff
from engine.separation.schedule.batcher import Batcher
from engine.separation.schedule.memory_backoff import CPU_TOOK_OVER, FIRST_PAUSE_S, HALVED, LONGEST_PAUSE_S, Executor
from engine.separation.schedule.run_queue import Entry
from tests.fixtures.tiny_models import awake, tiny_hdemucs
from tests.integration.separation.test_batcher import Echo, Mix, Sink, run

GIB = 1 << 30


@pytest.mark.parametrize(
    ("max_batch", "free_bytes", "segment_bytes", "expected"),
    [(16, 139 * GIB, GIB, 16), (16, 8 * GIB, GIB, 4), (16, GIB, GIB, 1), (7, 139 * GIB, GIB, 6), (16, 0, 0, 1)],
)
def test_the_batch_fits_the_free_memory(max_batch: int, free_bytes: int, segment_bytes: int, expected: int) -> None:
    assert batch_size.fitting_batch(max_batch, free_bytes, segment_bytes) == expected


def test_batches_are_padded_to_the_next_fixed_size() -> None:
    counts = (1, 3, 5, 9, 13, 16, 17, 25, 40)
    assert [batch_size.padded_size(count) for count in counts] == [1, 3, 6, 12, 16, 16, 24, 32, 40]


def test_auto_is_half_on_a_gpu_and_single_on_a_cpu() -> None:
    assert precision.resolve_precision("auto", torch.device("cuda")) == "fp16"
    assert precision.resolve_precision("fp32", torch.device("cuda")) == "fp32"
    assert precision.resolve_precision("fp16", torch.device("cpu")) == "fp32"


def test_local_attention_and_norms_stay_single() -> None:
    network = awake(tiny_hdemucs(1))
    windows = torch.randn(1, 2, 22050)
    with torch.no_grad():
        expected = network(windows)
        precision.to_half(network)
        with torch.autocast("cpu", dtype=torch.float16, cache_enabled=False):
            found = network(windows)
    kinds = {type(m): p.dtype for m in network.modules() for p in m.parameters(recurse=False)}
    assert kinds[torch.nn.Conv2d] == torch.float16
    assert kinds[torch.nn.GroupNorm] == torch.float32
    attention = [module for module in network.modules() if isinstance(module, LocalState)]
    assert attention
    assert all(p.dtype == torch.float32 for module in attention for p in module.parameters())
    error = (expected - found.float()).square().sum() / expected.square().sum()
    assert error < 10**-5.5


def test_work_left_to_the_device_comes_back_whole_and_in_order() -> None:
    batcher = Batcher(max_batch=4)
    batcher._depth = 1  # as on a GPU
    model = LoadedModel.of(Echo())
    mixes = [Mix(torch.randn(2, 1500)) for _ in range(3)]
    sinks = [Sink() for _ in mixes]
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(run, batcher, model, mix, sink) for mix, sink in zip(mixes, sinks, strict=True)]
        reports = [each.result() for each in runs]
    for mix, sink in zip(mixes, sinks, strict=True):
        torch.testing.assert_close(sink.stem("voice"), mix.signal)
    assert [report.segments for report in reports] == [15, 15, 15]


class Recording:
    """Stands in for a CUDA graph: replaying runs the same work on the same tensors."""

    def __init__(self, forward: CudaForward, key: tuple[int, int], like: torch.Tensor) -> None:
        self.replayed = 0
        self.forward, self.given = forward, like.new_zeros(key[0], like.shape[1], key[1])
        self.stems = forward._recorded_forward(self.given)

    def replay(self) -> None:
        self.replayed += 1
        self.stems.copy_(self.forward._recorded_forward(self.given))


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    made: list[Recording] = []

    def capture(self: CudaForward, key: tuple[int, int], like: torch.Tensor) -> object:
        recording = Recording(self, key, like)
        made.append(recording)
        return recording, recording.given, recording.stems

    monkeypatch.setattr(CudaForward, "_capture", capture)
    return made


def fails_above(room: int, error: Exception) -> Callable[[CudaForward, tuple[int, int], torch.Tensor], object]:
    def capture(self: CudaForward, key: tuple[int, int], like: torch.Tensor) -> object:
        if key[0] > room:
            raise error
        recording = Recording(self, key, like)
        return recording, recording.given, recording.stems

    return capture


def echoing(network: Echo | None = None) -> CudaForward:
    return CudaForward(network or Echo(), precision="fp32", usual_samples=100)


def echoing_of(network: torch.nn.Module) -> CudaForward:
    return CudaForward(network, precision="fp32", usual_samples=100)


def test_full_windows_are_captured_in_advance(recordings: list[Recording]) -> None:
    network = Echo()
    forward = echoing(network)
    with torch.no_grad():
        assert forward.prepare(torch.zeros(1, 2, 60), 7) == 7, "a short first window too"
        assert [recording.given.shape for recording in recordings] == [(size, 2, 100) for size in (6, 4, 3, 2, 1)]
        for count in (5, 1, 2, 6, 3):
            windows = torch.randn(count, 2, 100)
            torch.testing.assert_close(forward(windows), torch.stack([windows, 2 * windows], dim=1))
        assert forward.prepare(torch.zeros(1, 2, 100), 4) == 4
    assert [recording.replayed for recording in recordings] == [2, 0, 1, 1, 1], "five are a batch of six"
    assert len(network.batches[-1]) == 3


@pytest.mark.parametrize("how", ["at once", "when the recording is ended"])
def test_batches_too_large_to_be_recorded_are_not_made(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory")
    if how != "at once":
        ended = RuntimeError("CUDA error: operation failed due to a previous error during capture")
        ended.__context__, error = error, ended
    monkeypatch.setattr(CudaForward, "_capture", fails_above(2, error))
    forward = echoing()
    with torch.no_grad():
        assert forward.prepare(torch.zeros(1, 2, 100), 16) == 2
    assert forward.recordings == 2
    monkeypatch.setattr(CudaForward, "_capture", fails_above(0, error))
    with pytest.raises(torch.OutOfMemoryError):
        echoing().prepare(torch.zeros(1, 2, 100), 16)


def test_graphs_that_do_not_fit_reduce_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaForward, "_capture", fails_above(4, torch.OutOfMemoryError("CUDA out of memory")))
    measured: list[torch.Size] = []

    def measure(run: Callable[[], torch.Tensor], device: torch.device) -> tuple[int, int]:
        measured.append(run().shape)
        return 1, 100

    monkeypatch.setattr(memory_backoff, "measure_bytes", measure)
    passes, model = crowded_gpu(allow_cpu=True, max_batch=16), LoadedModel.of(Echo())
    with torch.no_grad():
        passes._prepare(echoing(), model, torch.zeros(1, 2, 60))
        assert measured == [(1, 2, 2, 100)], "of a full window, though the song is shorter"
        assert passes.limit(model) == 4
        passes._prepare(echoing(), model, torch.zeros(1, 2, 60))  # the next member of a bag
    assert passes.limit(model) == 4


def test_repeated_odd_lengths_are_captured_up_to_limit(recordings: list[Recording]) -> None:
    forward = echoing()
    with torch.no_grad():
        for length in (100, 60, 41, 17):
            for _ in range(2):
                assert forward(torch.ones(1, 2, length)).shape == (1, 2, 2, length)
    assert len(recordings) == 2


def test_what_a_recording_reads_lives_as_long_as_it_does(recordings: list[Recording]) -> None:
    network = awake(tiny_hdemucs(1))
    forward = CudaForward(network, precision="fp32", usual_samples=22050)
    with torch.no_grad():
        forward.prepare(torch.zeros(1, 2, 22050), 1)
        inner = forward._forward
        assert isinstance(inner, HybridForward)
        read = weakref.ref(inner._spectra[22050])
        for length in range(20000, 20012):  # the ends of songs
            forward(torch.zeros(1, 2, length))
        assert 22050 not in inner._spectra
    gc.collect()
    assert read() is not None, "a graph has its address"
    del forward, inner, recordings[:]
    gc.collect()
    assert read() is None


def test_a_network_that_cannot_be_recorded_runs_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error = RuntimeError("operation not permitted when stream is capturing")
    monkeypatch.setattr(CudaForward, "_capture", fails_above(0, error))
    forward = echoing()
    with torch.no_grad():
        assert forward.prepare(torch.zeros(1, 2, 100), 1) == 1
        for _ in range(4):
            assert forward(torch.ones(1, 2, 100)).shape == (1, 2, 2, 100)
    assert sum("without a CUDA graph" in record.message for record in caplog.records) == 1
    assert (forward.recordings, forward.unrecordable) == (0, 1)


def test_each_tier_restores_torch_settings() -> None:
    products = torch.backends.cuda.matmul
    seen: list[bool] = []

    class Noting(Echo):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            seen.extend((products.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark))
            return super().forward(windows)

    before = (products.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark)
    for tier in ("fp32", "tf32"):
        with torch.no_grad():
            CudaForward(Noting(), precision=tier, usual_samples=9).eager(torch.ones(1, 2, 9))
    assert seen == [False, False, False, True, True, False]
    assert (products.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark) == before


def test_a_pool_is_given_up_with_its_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    handles = iter(range(9))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))

    class Graph:
        pass

    pool, graph = graphs.GraphPool(), Graph()
    first = pool.handle()
    pool.add(graph)  # type: ignore[arg-type]
    assert pool.handle() == first
    del graph
    gc.collect()
    second = pool.handle()
    assert second != first
    pool.abandon(torch.device("cuda"))
    assert pool.handle() != second, "one that a broken recording was in"


class CrowdedGpu(Executor):
    """A GPU on which nothing fits."""

    def _one_pass(self, model: LoadedModel, member: int, windows: Sequence[torch.Tensor]) -> Iterable[torch.Tensor]:
        if self.device.type == "cuda":
            raise torch.OutOfMemoryError("no room")
        return super()._one_pass(model, member, windows)


def crowded_gpu(*, allow_cpu: bool, max_batch: int = 4) -> CrowdedGpu:
    return CrowdedGpu(
        torch.device("cuda"),
        precision="auto",
        max_batch=max_batch,
        allow_cpu=allow_cpu,
        native=None,
        tuning=graphs.NO_TUNING,
    )


def computed(
    passes: Executor,
    model: LoadedModel,
    windows: Sequence[torch.Tensor],
    note: Callable[[str], None] = lambda _: None,
) -> list[torch.Tensor]:
    stems: dict[int, torch.Tensor] = {}
    passes.compute(model, 0, windows, lambda index, found: stems.update({index: found.clone()}), note)
    return [stems[index] for index in range(len(windows))]


def test_gpu_too_small_for_segment_falls_back_to_cpu() -> None:
    passes, told = crowded_gpu(allow_cpu=True), list[str]()
    windows = list(torch.randn(4, 2, 100))
    with torch.no_grad():
        stems = computed(passes, LoadedModel.of(Echo()), windows, told.append)
    torch.testing.assert_close(torch.stack([each[0] for each in stems]), torch.stack(windows))
    assert list(dict.fromkeys(told)) == [HALVED, CPU_TOOK_OVER]
    assert (passes.device.type, passes.max_batch) == ("cpu", 1)


def test_leaving_the_gpu_frees_all_models_before_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, model, other = SharedGpu(room=0, max_batch=1), LoadedModel.of(Echo()), LoadedModel.of(Echo())
    executor._models.update((model, other))
    placed = [weakref.ref(each.placed(0, executor.home, echoing_of)) for each in (model, other)]
    alive: list[int] = []
    monkeypatch.setattr(
        memory_backoff, "_empty_cache", lambda: alive.append(sum(each() is not None for each in placed))
    )
    with torch.no_grad():
        computed(executor, model, [torch.randn(2, 100)])
    assert alive == [0]


def test_halving_drops_the_recordings_of_all_models(
    monkeypatch: pytest.MonkeyPatch, recordings: list[Recording]
) -> None:
    executor, forwards = SharedGpu(room=2), [echoing(), echoing()]
    with torch.no_grad():
        for forward in forwards:
            forward.prepare(torch.zeros(1, 2, 100), 4)
    assert [forward.recordings for forward in forwards] == [4, 4]
    executor._forwards.update(forwards)
    kept: list[int] = []
    monkeypatch.setattr(
        memory_backoff, "_empty_cache", lambda: kept.append(sum(forward.recordings for forward in forwards))
    )
    with torch.no_grad():
        computed(executor, LoadedModel.of(Echo()), list(torch.randn(4, 2, 100)))
        assert kept == [0]
        assert forwards[0].prepare(torch.zeros(1, 2, 100), 2) == 2
    assert forwards[0].recordings == 2, "the smaller ones are made again"


def test_idle_memory_of_recordings_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "memory_allocated": 3 * GIB,
        "memory_reserved": 7 * GIB,  # 4 GiB of them in the pool of the recordings
        "max_memory_allocated": 5 * GIB,
        "mem_get_info": (6 * GIB, 16 * GIB),
        "synchronize": None,
        "reset_peak_memory_stats": None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert batch_size.measure_bytes(lambda: None, torch.device("cuda")) == (2 * GIB, 10 * GIB)


def test_low_memory_without_cpu_fallback_is_an_error() -> None:
    with pytest.raises(OutOfMemory):
        computed(crowded_gpu(allow_cpu=False), LoadedModel.of(Echo()), [torch.randn(2, 100)])


class SharedGpu(Executor):
    """A device with a fake allocator: another program leaves room for `room` segments in a batch."""

    def __init__(self, room: int, *, max_batch: int = 4) -> None:
        self.room = room
        self.now = 0.0
        self.tried: list[tuple[str, int]] = []
        super().__init__(
            torch.device("meta"),  # any device that is not the CPU
            precision="fp32", max_batch=max_batch, allow_cpu=True, native=None, tuning=graphs.NO_TUNING,
            clock=lambda: self.now,
        )  # fmt: skip

    def _one_pass(self, model: LoadedModel, member: int, windows: Sequence[torch.Tensor]) -> Iterable[torch.Tensor]:
        self.tried.append((self.device.type, len(windows)))
        if self.stands_in:
            return super()._one_pass(model, member, windows)
        if len(windows) > self.room:
            raise torch.OutOfMemoryError("no room")
        self._limits.setdefault(model, self.max_batch)
        return list(model.members[member](torch.stack(list(windows))))


class ReadAhead(Batcher):
    """Waits for full batches, so that their sizes do not depend on which thread is the faster."""

    def _next_batch(self) -> list[Entry]:
        while any(len(run.waiting) < min(self._executor.max_batch, run.total - run.taken) for run in self._runs):
            self._changed.wait(timeout=1)
        return super()._next_batch()


def batcher_on(passes: Executor) -> Batcher:
    batcher = ReadAhead()
    batcher._executor = passes
    return batcher


def test_gpu_resumes_after_cpu_fallback() -> None:
    passes = SharedGpu(room=0)
    batcher, model = batcher_on(passes), LoadedModel.of(Echo())
    told: list[str] = []
    mix, sink = Mix(torch.randn(2, 700)), Sink()
    poor = run(batcher, model, mix, sink, on_cpu=lambda: told.append("cpu"))
    torch.testing.assert_close(sink.stem("voice"), mix.signal)
    assert poor.notes == (HALVED, CPU_TOOK_OVER) and poor.devices == ("cpu",) and told == ["cpu"]
    passes.room, passes.now = 4, FIRST_PAUSE_S - 1
    assert run(batcher, model, mix).devices == ("cpu",), "it does not retry at every segment"
    passes.now = FIRST_PAUSE_S
    rich = run(batcher, model, mix, on_cpu=lambda: told.append("again"))
    assert rich.notes == () and rich.devices == ("meta",) and told == ["cpu"]
    assert max(count for device, count in passes.tried if device == "meta") == 4, "with batches as before"


def test_a_run_goes_on_on_the_gpu_in_its_middle_without_a_seam() -> None:
    passes = SharedGpu(room=0)
    mix, sink = Mix(torch.randn(2, 2000)), Sink()

    def after_a_while(done: int, total: int) -> None:
        if done > 5:
            passes.room, passes.now = 4, FIRST_PAUSE_S

    report = run(batcher_on(passes), LoadedModel.of(Echo()), mix, sink, overlap=0.25, on_progress=after_a_while)
    torch.testing.assert_close(sink.stem("voice"), mix.signal)
    assert report.devices == ("cpu", "meta") and report.notes == (HALVED, CPU_TOOK_OVER)


def test_a_gpu_that_stays_full_is_tried_less_and_less_often() -> None:
    passes, model, pauses = SharedGpu(room=0, max_batch=1), LoadedModel.of(Echo()), list[float]()
    last = 0.0
    for _ in range(8000):
        tried = len(passes.tried)
        with torch.no_grad():
            computed(passes, model, [torch.randn(2, 100)])
        if ("meta", 1) in passes.tried[tried:]:
            pauses.append(passes.now - last)
            last = passes.now
        passes.now += 1
    assert pauses[1:6] == [60, 120, 240, 480, 960] and pauses[-1] == LONGEST_PAUSE_S


def test_a_halved_batch_grows_again() -> None:
    passes, model = SharedGpu(room=2), LoadedModel.of(Echo())
    batcher, mix = batcher_on(passes), Mix(torch.randn(2, 2000))
    assert run(batcher, model, mix).notes == (HALVED,)
    passes.room, passes.now = 4, FIRST_PAUSE_S
    passes.tried.clear()
    assert run(batcher, model, mix).notes == ()
    assert ("meta", 4) in passes.tried


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 b"),
            True,
            False,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True, False),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True, False),
        (RuntimeError("can't start new thread"), True, False),
        (MemoryError(), True, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), False, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (OSError("can't allocate memory"), False, False),
    ],
)
def test_low_memory_is_distinguished_from_lost_device(error: BaseException, memory: bool, lost: bool) -> None:
    assert (is_out_of_memory(error), device_is_lost(error)) == (memory, lost)
