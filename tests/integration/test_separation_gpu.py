"""What a GPU is asked to do, as far as that can be tried without one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from demucs.demucs import LocalState

from engine.errors import OutOfMemory
from engine.separation import gpu
from engine.separation.batcher import Batcher, Entry
from engine.separation.device import device_is_lost, is_out_of_memory
from engine.separation.loaded import LoadedModel
from engine.separation.passes import CPU_TOOK_OVER, FIRST_PAUSE_S, HALVED, LONGEST_PAUSE_S, Passes
from tests.integration.test_separation_batcher import Echo, Mix, Sink, run
from tests.tiny_models import awake, tiny_hdemucs

GIB = 1 << 30


@pytest.mark.parametrize(
    ("max_batch", "free_bytes", "segment_bytes", "expected"),
    [(16, 139 * GIB, GIB, 16), (16, 8 * GIB, GIB, 4), (16, GIB, GIB, 1), (6, 139 * GIB, GIB, 4), (16, 0, 0, 1)],
)
def test_the_batch_fits_the_free_memory(max_batch: int, free_bytes: int, segment_bytes: int, expected: int) -> None:
    assert gpu.fitting_batch(max_batch, free_bytes, segment_bytes) == expected


def test_batches_are_padded_to_the_next_fixed_size() -> None:
    assert [gpu.padded_size(count) for count in (1, 3, 8, 9, 16, 20)] == [1, 4, 8, 16, 16, 20]


def test_auto_is_half_on_a_gpu_and_single_on_a_cpu() -> None:
    assert gpu.precision_of("auto", torch.device("cuda")) == "fp16"
    assert gpu.precision_of("fp32", torch.device("cuda")) == "fp32"
    assert gpu.precision_of("fp16", torch.device("cpu")) == "fp32"


def test_local_attention_and_norms_stay_single() -> None:
    network = awake(tiny_hdemucs(1))
    windows = torch.randn(1, 2, 22050)
    with torch.no_grad():
        expected = network(windows)
        gpu.to_half(network)
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

    def __init__(self) -> None:
        self.replayed = 0
        self.work: list[tuple[gpu.GpuForward, torch.Tensor, torch.Tensor]] = []

    def replay(self) -> None:
        self.replayed += 1
        for forward, given, stems in self.work:
            stems.copy_(forward._forward(given))


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    made: list[Recording] = []

    def record(self: gpu.GpuForward, key: tuple[int, int], windows: torch.Tensor) -> object:
        given = windows.new_zeros(key[0], *windows.shape[1:])
        recording, stems = Recording(), self._forward(given)
        recording.work.append((self, given, stems))
        made.append(recording)
        return recording, given, stems

    monkeypatch.setattr(gpu.GpuForward, "_recorded", record)
    return made


def test_a_shape_that_comes_again_is_recorded_and_padded_batches_give_the_same(recordings: list[Recording]) -> None:
    network = Echo()
    forward = gpu.GpuForward(network, precision="fp32")
    for _ in range(3):
        windows = torch.randn(3, 2, 100)
        with torch.no_grad():
            torch.testing.assert_close(forward(windows), torch.stack([windows, 2 * windows], dim=1))
    assert [recording.replayed for recording in recordings] == [2]
    assert len(network.batches[-1]) == 4


def test_lengths_that_come_once_are_not_recorded(recordings: list[Recording]) -> None:
    forward = gpu.GpuForward(Echo(), precision="fp32")
    with torch.no_grad():
        for length in (100, 60, 41, 17):
            for _ in range(2):
                assert forward(torch.ones(1, 2, length)).shape == (1, 2, 2, length)
    assert len(recordings) == 2


def test_a_network_that_cannot_be_recorded_runs_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: gpu.GpuForward, key: tuple[int, int], windows: torch.Tensor) -> object:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(gpu.GpuForward, "_recorded", refuse)
    forward = gpu.GpuForward(Echo(), precision="fp32")
    with torch.no_grad():
        for _ in range(4):
            assert forward(torch.ones(1, 2, 100)).shape == (1, 2, 2, 100)
    assert sum("without a CUDA graph" in record.message for record in caplog.records) == 1


class CrowdedGpu(Passes):
    """A GPU on which nothing fits."""

    def _one_pass(self, model: LoadedModel, member: int, windows: list[torch.Tensor]) -> list[torch.Tensor]:
        if self.device.type == "cuda":
            raise torch.OutOfMemoryError("no room")
        return super()._one_pass(model, member, windows)


def crowded_gpu(*, allow_cpu: bool) -> CrowdedGpu:
    return CrowdedGpu(
        torch.device("cuda"), precision="auto", max_batch=4, allow_cpu=allow_cpu, kernels=None, compiled=False
    )


def test_a_gpu_without_room_for_one_segment_is_given_up_for_the_cpu_and_that_is_told() -> None:
    passes, told = crowded_gpu(allow_cpu=True), list[str]()
    windows = list(torch.randn(4, 2, 100))
    with torch.no_grad():
        stems = passes.stems(LoadedModel.of(Echo()), 0, windows, told.append)
    torch.testing.assert_close(torch.stack([each[0] for each in stems]), torch.stack(windows))
    assert list(dict.fromkeys(told)) == [HALVED, CPU_TOOK_OVER]
    assert (passes.device.type, passes.max_batch) == ("cpu", 1)


def test_where_the_cpu_may_not_take_over_the_want_of_memory_is_said() -> None:
    with pytest.raises(OutOfMemory):
        crowded_gpu(allow_cpu=False).stems(LoadedModel.of(Echo()), 0, [torch.randn(2, 100)], lambda _: None)


class SharedGpu(Passes):
    """A device with a fake allocator: another program leaves room for `room` segments in a batch."""

    def __init__(self, room: int, *, max_batch: int = 4) -> None:
        self.room = room
        self.now = 0.0
        self.tried: list[tuple[str, int]] = []
        super().__init__(
            torch.device("meta"),  # any device that is not the CPU
            precision="fp32", max_batch=max_batch, allow_cpu=True, kernels=None, compiled=False, clock=lambda: self.now,
        )  # fmt: skip

    def _one_pass(self, model: LoadedModel, member: int, windows: list[torch.Tensor]) -> list[torch.Tensor]:
        self.tried.append((self.device.type, len(windows)))
        if self.stands_in:
            return super()._one_pass(model, member, windows)
        if len(windows) > self.room:
            raise torch.OutOfMemoryError("no room")
        self._limits.setdefault(model, self.max_batch)
        return list(model.members[member](torch.stack(windows)))


class ReadAhead(Batcher):
    """Waits for full batches, so that their sizes do not depend on which thread is the faster."""

    def _next_batch(self) -> list[Entry]:
        while any(len(run.waiting) < min(self._passes.max_batch, run.total - run.taken) for run in self._runs):
            self._changed.wait(timeout=1)
        return super()._next_batch()


def batcher_on(passes: Passes) -> Batcher:
    batcher = ReadAhead()
    batcher._passes = passes
    return batcher


def test_the_gpu_is_taken_again_when_its_memory_may_be_free_and_its_runs_say_nothing_of_the_cpu() -> None:
    passes = SharedGpu(room=0)
    batcher, model = batcher_on(passes), LoadedModel.of(Echo())
    told: list[str] = []
    mix, sink = Mix(torch.randn(2, 700)), Sink()
    poor = run(batcher, model, mix, sink, on_cpu=lambda: told.append("cpu"))
    torch.testing.assert_close(sink.stem("voice"), mix.signal)
    assert poor.notes == (HALVED, CPU_TOOK_OVER) and poor.devices == ("cpu",) and told == ["cpu"]
    passes.room, passes.now = 4, FIRST_PAUSE_S - 1
    assert run(batcher, model, mix).devices == ("cpu",), "it does not knock at every segment"
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
            passes.stems(model, 0, [torch.randn(2, 100)], lambda _: None)
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
        (RuntimeError("can't start new thread"), True, False),
        (MemoryError(), True, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), False, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (OSError("can't allocate memory"), False, False),
    ],
)
def test_want_of_memory_is_told_from_a_device_that_is_lost(error: BaseException, memory: bool, lost: bool) -> None:
    assert (is_out_of_memory(error), device_is_lost(error)) == (memory, lost)
