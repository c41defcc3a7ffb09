"""What the separation does when a GPU has too little memory."""

from __future__ import annotations

import weakref

import pytest
import torch

from engine.errors import OutOfMemory
from engine.separation.cuda import batch_size
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.ops.device import device_is_lost, is_out_of_memory
from engine.separation.schedule import memory_backoff
from engine.separation.schedule.memory_backoff import CPU_TOOK_OVER, FIRST_PAUSE_S, HALVED, LONGEST_PAUSE_S
from tests.fixtures.echo_gpu import (
    GIB,
    Recording,
    SharedGpu,
    batcher_on,
    computed,
    crowded_gpu,
    echoing,
)
from tests.fixtures.echo_network import Echo, Mix, Sink, run


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
    placed = [weakref.ref(each.placed(0, executor.home, echoing)) for each in (model, other)]
    alive: list[int] = []
    monkeypatch.setattr(
        memory_backoff, "_empty_cache", lambda _: alive.append(sum(each() is not None for each in placed))
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
        memory_backoff, "_empty_cache", lambda _: kept.append(sum(forward.recordings for forward in forwards))
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


def _without_cuda(monkeypatch: pytest.MonkeyPatch, error: RuntimeError | None = None) -> list[tuple[int, ...]]:
    """Replace pinned memory, or the lack of it, and copies to a GPU; return the shapes that are pinned."""
    pinned: list[tuple[int, ...]] = []
    empty = torch.empty

    def allocate(shape: tuple[int, ...], *, pin_memory: bool = False) -> torch.Tensor:
        if pin_memory and error is not None:
            raise error
        if pin_memory:
            pinned.append(shape)
        return empty(shape)

    monkeypatch.setattr(torch, "empty", allocate)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking: self)
    return pinned


def test_batch_is_copied_at_once_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, windows = crowded_gpu(allow_cpu=True), list(torch.randn(3, 2, 100))
    pinned = _without_cuda(monkeypatch)
    assert torch.equal(executor._to_device(windows), torch.stack(windows))
    assert pinned == [(3, 2, 100)]


def test_batch_is_copied_when_pinned_memory_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, windows = crowded_gpu(allow_cpu=True), list(torch.randn(3, 2, 100))
    _without_cuda(monkeypatch, RuntimeError("CUDA error: out of memory"))
    assert torch.equal(executor._to_device(windows), torch.stack(windows))


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
