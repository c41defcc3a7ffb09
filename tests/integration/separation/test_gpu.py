"""The CUDA path on a real GPU; test_cuda.py has what can be tested without one."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from engine.errors import Cancelled
from engine.separation.cuda.graphs import CudaForward
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.network.forward import forward_of
from engine.separation.schedule.batcher import Batcher
from engine.separation.schedule.memory_backoff import CPU_TOOK_OVER
from tests.fixtures.echo_network import Mix
from tests.fixtures.tiny_models import SOURCES, awake, tiny_hdemucs, tiny_htdemucs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

GPU = torch.device("cuda", 0)
WINDOW_SAMPLES = 88_200
PRECISIONS_DB = {"fp32": 90.0, "tf32": 50.0, "fp16": 45.0}


class Stems:
    """Keep all blocks."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []

    def write(self, start: int, stems: dict[str, Tensor]) -> None:
        self._blocks.append(torch.stack(list(stems.values())))

    def whole(self) -> Tensor:
        return torch.cat(self._blocks, dim=-1)


def snr_db(expected: Tensor, found: Tensor) -> float:
    error = (expected.double() - found.double().cpu()).square().sum()
    return 10 * math.log10(float(expected.double().square().sum() / error.clamp_min(1e-300)))


def windows_of(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, WINDOW_SAMPLES, generator=torch.Generator().manual_seed(seed))


def forward_on_gpu(precision: str = "fp32", seed: int = 0) -> CudaForward:
    network = awake(tiny_htdemucs(seed)).to(GPU)
    return CudaForward(network, precision=precision, usual_samples=WINDOW_SAMPLES)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad(), torch.cuda.device(GPU):
        yield


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    batcher = Batcher(GPU, precision="fp32")
    yield batcher
    batcher.close()


def song(seconds: float) -> Mix:
    return Mix(torch.randn(2, int(seconds * 44100), generator=torch.Generator().manual_seed(0)))


def separated(batcher: Batcher, model: LoadedModel, seconds: float) -> Tensor:
    stems = Stems()
    batcher.run(model, song(seconds), stems, stems=SOURCES, shifts=0, overlap=0.25, seed=1)
    return stems.whole()


def test_every_full_batch_is_recorded() -> None:
    forward = forward_on_gpu()
    assert forward.prepare(windows_of(1).to(GPU), 16) == 16
    assert (forward.recordings, forward.unrecordable) == (8, 0)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 9, 13, 16])
def test_recorded_batch_equals_eager_windows(count: int) -> None:
    forward, windows = forward_on_gpu(), windows_of(count)
    forward.prepare(windows[:1].to(GPU), 16)
    expected = forward_of(awake(tiny_htdemucs()))(windows)
    for _ in range(2):
        assert snr_db(expected, forward(windows.to(GPU))) > 90


@pytest.mark.parametrize("precision", list(PRECISIONS_DB))
@pytest.mark.parametrize("network", [tiny_htdemucs, tiny_hdemucs])
def test_precision_keeps_its_distance(precision: str, network: Callable[[], nn.Module]) -> None:
    windows = windows_of(4)
    expected = forward_of(awake(network()))(windows)
    forward = CudaForward(awake(network()).to(GPU), precision=precision, usual_samples=WINDOW_SAMPLES)
    assert snr_db(expected, forward.eager(windows.to(GPU))) > PRECISIONS_DB[precision]


def test_overflow_in_half_precision_is_computed_again() -> None:
    """The first layers have no norm, so their output grows with the weights, beyond what half precision holds."""
    network = awake(tiny_htdemucs())
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.weight *= 1e6
    model, batcher = LoadedModel.of(network), Batcher(GPU, precision="fp16")
    assert (
        not CudaForward(copy.deepcopy(network).to(GPU), precision="fp16", usual_samples=WINDOW_SAMPLES)
        .eager(windows_of(1).to(GPU))
        .isfinite()
        .all()
    )
    found = separated(batcher, model, 9)
    batcher.close()
    assert snr_db(separated(Batcher(), model, 9), found) > PRECISIONS_DB["tf32"]


def test_two_models_share_a_gpu(batcher: Batcher) -> None:
    models = [LoadedModel.of(awake(tiny_htdemucs(seed))) for seed in (0, 1)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: separated(batcher, models[number % 2], 9), range(4)))
    on_cpu = Batcher()
    for number, stems in enumerate(found):
        assert snr_db(separated(on_cpu, models[number % 2], 9), stems) > 90


def test_song_alone_gives_the_same_samples_again(batcher: Batcher) -> None:
    model = LoadedModel.of(awake(tiny_htdemucs()))
    separated(batcher, model, 9)  # records
    assert torch.equal(separated(batcher, model, 9), separated(batcher, model, 9))


def test_second_song_never_waits_for_the_gpu_in_launch(batcher: Batcher, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LoadedModel.of(awake(tiny_htdemucs()))
    separated(batcher, model, 30)
    launch = Batcher._launch

    def without_waiting(self: Batcher, batch: list[object]) -> object:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(self, batch)  # type: ignore[arg-type]
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Batcher, "_launch", without_waiting)
    assert separated(batcher, model, 30).isfinite().all()


def test_copy_to_the_gpu_does_not_wait_for_its_work(batcher: Batcher) -> None:
    windows = list(windows_of(16))
    batcher._executor._to_device(windows)  # allocates
    torch.cuda.synchronize()
    torch.cuda._sleep(4_000_000_000)  # type: ignore[no-untyped-call]  # clock cycles
    batcher._executor._to_device(windows)
    assert not torch.cuda.current_stream().query(), "the GPU still sleeps"


def test_cancelled_song_leaves_the_gpu_to_others(batcher: Batcher) -> None:
    model, cancelled = LoadedModel.of(awake(tiny_htdemucs())), threading.Event()
    with pytest.raises(Cancelled):
        batcher.run(
            model,
            song(60),
            Stems(),
            stems=SOURCES,
            shifts=0,
            overlap=0.25,
            on_progress=lambda done, total: cancelled.set(),
            cancelled=cancelled,
        )
    assert separated(batcher, model, 5).isfinite().all()


def test_full_gpu_leaves_the_song_to_the_cpu(batcher: Batcher) -> None:
    model = LoadedModel.of(awake(tiny_htdemucs()))
    expected = separated(Batcher(), model, 5)
    torch.cuda.set_per_process_memory_fraction(1e-5, GPU)
    try:
        stems = Stems()
        report = batcher.run(model, song(5), stems, stems=SOURCES, shifts=0, overlap=0.25, seed=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    assert CPU_TOOK_OVER in report.notes and "cpu" in report.devices
    assert snr_db(expected, stems.whole()) > 90
