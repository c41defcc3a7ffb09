"""What a GPU is asked to do, as far as that can be tried without one."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from demucs.demucs import BLSTM, LocalState
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from torch import nn

from engine.separation.cuda import batch_size, graphs, precision
from engine.separation.cuda.graphs import CudaForward
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.network.forward import HybridForward
from engine.separation.schedule import memory_backoff
from engine.separation.schedule.batcher import Batcher
from tests.fixtures.echo_gpu import (
    GIB,
    Recording,
    crowded_gpu,
    echoing,
    fails_above,
)
from tests.fixtures.echo_network import Echo, Mix, Sink, run
from tests.fixtures.tiny_models import awake, tiny_hdemucs, tiny_htdemucs


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


def test_recurrence_local_attention_and_norms_stay_single() -> None:
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
    for kind in (LocalState, BLSTM):
        modules = [module for module in network.modules() if isinstance(module, kind)]
        assert modules
        assert all(p.dtype == torch.float32 for module in modules for p in module.parameters())
    error = (expected - found.float()).square().sum() / expected.square().sum()
    assert error < 10**-5.5


@pytest.mark.parametrize("tiny", [tiny_htdemucs, tiny_hdemucs])
def test_last_layers_compute_in_single_from_half(tiny: Callable[[], HTDemucs | HDemucs]) -> None:
    network = awake(tiny())
    precision.to_half(network)
    results: list[torch.Tensor] = []
    last: list[nn.Module] = [layers[-1].get_submodule("conv_tr") for layers in (network.decoder, network.tdecoder)]
    for layer in last:
        layer.register_forward_hook(lambda layer, given, result: results.append(result))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16, cache_enabled=False):
        network(torch.randn(1, 2, 22050))
    assert [p.dtype for layer in last for p in layer.parameters()] == [torch.float32] * 4
    assert network.decoder[-2].get_submodule("conv_tr").get_parameter("weight").dtype == torch.float16
    assert len(results) == 2
    assert all((result != result.half()).any() for result in results), "they are not rounded to half"


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


class Overflowing(CudaForward):
    """A network whose result has one value that half precision cannot hold."""

    def __init__(self, value: float) -> None:
        super().__init__(Echo(), precision="fp16", usual_samples=100)
        self.value = value

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        stems = torch.zeros(len(windows), 2, *windows.shape[1:])
        stems[-1, 1, 0, 50] = self.value
        return stems


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_batch_that_overflows_is_computed_again(
    value: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    executor, model, windows = crowded_gpu(allow_cpu=False), LoadedModel.of(Echo()), list(torch.randn(3, 2, 100))
    asked: list[str | None] = []

    def forward(model: LoadedModel, member: int, precision: str | None = None) -> CudaForward:
        asked.append(precision)
        return Overflowing(value) if precision is None else echoing()

    monkeypatch.setattr(executor, "_forward", forward)
    monkeypatch.setattr(executor, "_to_device", torch.stack)
    monkeypatch.setattr(executor, "_prepare", lambda *_: None)
    with torch.no_grad():
        for _ in range(2):
            stems = list(memory_backoff.Executor._one_pass(executor, model, 0, windows))
            torch.testing.assert_close(torch.stack([each[0] for each in stems]), torch.stack(windows))
    assert asked == [None, "tf32"] * 2
    assert caplog.text.count("overflows half precision") == 1


def test_finite_batch_in_half_precision_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, model = crowded_gpu(allow_cpu=False), LoadedModel.of(Echo())
    monkeypatch.setattr(executor, "_forward", lambda model, member: Overflowing(65504.0))
    monkeypatch.setattr(executor, "_to_device", torch.stack)
    monkeypatch.setattr(executor, "_prepare", lambda *_: None)
    (stems,) = memory_backoff.Executor._one_pass(executor, model, 0, [torch.zeros(2, 100)])
    assert stems.max() == 65504.0
