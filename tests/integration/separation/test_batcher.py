"""Several runs on one device: their order, their shared batches, and how they end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from engine.errors import Cancelled
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.schedule.batcher import Batcher
from tests.fixtures.echo_network import Echo, Mix, Sink, constant, run
from tests.fixtures.tiny_models import awake, tiny_htdemucs


@pytest.mark.parametrize("max_batch", [1, 4])
def test_run_writes_every_sample_once_and_in_order(max_batch: int) -> None:
    mix, sink, seen = Mix(torch.randn(2, 1234)), Sink(), list[tuple[int, int]]()
    report = run(
        Batcher(max_batch=max_batch), LoadedModel.of(Echo()), mix, sink, shifts=3, overlap=0.25,
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    torch.testing.assert_close(sink.stem("voice"), mix.signal)
    torch.testing.assert_close(sink.stem("rest"), 2 * mix.signal)
    assert seen[-1] == (report.segments, report.segments)
    assert seen == sorted(seen)


def test_first_blocks_are_written_before_last_segments_run() -> None:
    sink, first = Sink(), list[int]()
    run(
        Batcher(), LoadedModel.of(Echo()), Mix(torch.randn(2, 3000)), sink, shifts=2, overlap=0.25,
        on_progress=lambda done, total: first.append(done) if sink.blocks else None,
    )  # fmt: skip
    assert first[0] < first[-1] / 4


def test_only_requested_stems_are_written() -> None:
    sink = Sink()
    run(Batcher(), LoadedModel.of(Echo()), constant(1, 3), sink, stems=["voice"])
    assert {name for _, block in sink.blocks for name in block} == {"voice"}


def test_short_run_does_not_wait_for_long_run() -> None:
    network = Echo()
    model = LoadedModel.of(network)
    batcher = Batcher()
    ready = threading.Event()
    network.gate = lambda: ready.wait(60) if len(network.batches) >= 10 else None  # the long one is under way
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(run, batcher, model, constant(1, 100))
        while len(network.batches) < 10:
            ready.wait(0.001)
        short = pool.submit(run, batcher, model, constant(2, 4))
        while len(batcher._runs) < 2 or not list(batcher._runs)[1].waiting:
            ready.wait(0.001)
        ready.set()
        short.result()
        long.result()
    order = [batch[0] for batch in network.batches]
    last_short = max(place for place, value in enumerate(order) if value == 2)
    assert last_short - 10 <= 2.5 * 4
    assert order.count(1) == 100


def test_long_run_advances_while_short_runs_arrive() -> None:
    network = Echo()
    model = LoadedModel.of(network)
    batcher = Batcher()
    with ThreadPoolExecutor(3) as pool:
        long = pool.submit(run, batcher, model, constant(1, 60))
        shorts = [pool.submit(run, batcher, model, constant(2, 4)) for _ in range(60)]
        for future in [long, *shorts]:
            future.result()
    order = [batch[0] for batch in network.batches]
    assert order.index(1, order.index(1) + 5) < order.index(2) + 120  # it was not left until all others were done


def test_runs_in_shared_batches_keep_their_own_samples() -> None:
    network = Echo()
    started = threading.Event()
    network.gate = lambda: started.wait(60)
    model = LoadedModel.of(network)
    batcher = Batcher(max_batch=4)
    mixes = [Mix(torch.randn(2, 700)) for _ in range(3)]
    sinks = [Sink() for _ in mixes]
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(run, batcher, model, mix, sink) for mix, sink in zip(mixes, sinks, strict=True)]
        while len(batcher._runs) < 3 or not all(each.waiting for each in batcher._runs):
            started.wait(0.001)
        started.set()
        for future in futures:
            future.result()
    firsts = [{mix.signal[0, start].item() for start in range(0, 700, 100)} for mix in mixes]
    shared = [batch for batch in network.batches if sum(bool(first & set(batch)) for first in firsts) > 1]
    assert shared
    for mix, sink in zip(mixes, sinks, strict=True):
        torch.testing.assert_close(sink.stem("voice"), mix.signal)


def test_result_does_not_depend_on_batch_neighbours() -> None:
    network = awake(tiny_htdemucs(3, nfft=4096, depth=4, channels=4, segment=1))
    model = LoadedModel.of(network)
    mix = Mix(torch.randn(2, 44100 * 3))
    alone = vocals(Batcher(max_batch=1), model, mix)
    together = vocals(Batcher(max_batch=4), model, mix)
    error = (alone - together).square().sum() / alone.square().sum()
    assert error < 1e-9


def vocals(batcher: Batcher, model: LoadedModel, mix: Mix) -> Tensor:
    found: list[Tensor] = []

    class Vocals:
        def write(self, start: int, stems: dict[str, Tensor]) -> None:
            found.append(stems["vocals"])

    batcher.run(model, mix, Vocals(), stems=["vocals"], shifts=1, overlap=0.25, seed=2)
    return torch.cat(found, dim=-1)


def test_network_error_is_raised_to_the_caller() -> None:
    network = Echo()

    def broken() -> None:
        raise ZeroDivisionError

    network.gate = broken
    with pytest.raises(ZeroDivisionError):
        run(Batcher(), LoadedModel.of(network), constant(1, 5))


def test_failed_sink_ends_only_its_run() -> None:
    class Full(Sink):
        def write(self, start: int, stems: dict[str, Tensor]) -> None:
            raise OSError("no space left")

    batcher, model = Batcher(), LoadedModel.of(Echo())
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(run, batcher, model, constant(1, 50), Full())
        fine = pool.submit(run, batcher, model, constant(2, 50))
        with pytest.raises(OSError, match="no space"):
            failing.result()
        assert fine.result().segments == 50


def test_cancelled_run_ends_at_once_and_others_finish() -> None:
    network = Echo()
    model, batcher, cancelled, halfway = LoadedModel.of(network), Batcher(), threading.Event(), threading.Event()
    network.gate = lambda: halfway.set() if len(network.batches) > 10 else None
    with ThreadPoolExecutor(2) as pool:
        doomed = pool.submit(run, batcher, model, constant(1, 10_000), cancelled=cancelled)
        fine = pool.submit(run, batcher, model, constant(2, 30))
        assert halfway.wait(60)
        cancelled.set()
        with pytest.raises(Cancelled):
            doomed.result(timeout=60)
        assert fine.result().segments == 30


def test_close_cancels_runs_and_leaves_no_thread() -> None:
    network = Echo()
    batcher, busy = Batcher(), threading.Event()
    network.gate = busy.set
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, batcher, LoadedModel.of(network), constant(1, 100_000))
        began = busy.wait(30)
        batcher.close()
        assert began
        with pytest.raises(Cancelled):
            running.result(timeout=30)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batcher")]
    with pytest.raises(Cancelled):
        run(batcher, LoadedModel.of(Echo()), constant(1, 1))


def test_segment_over_network_limit_is_shortened_with_note() -> None:
    model = LoadedModel.of(tiny_htdemucs(segment=1))
    report = run(Batcher(), model, Mix(torch.zeros(2, 100)), _Nowhere(), stems=["vocals"], segment_s=30.0)
    assert report.segment_s == 1
    assert "shortened to 1 s" in report.notes[0]


class _Nowhere(Sink):
    def write(self, start: int, stems: dict[str, Tensor]) -> None:
        pass


class Unsure(Echo):
    """Every pass has a new error: a tenth of the mix in the first stem, none in the second."""

    def forward(self, windows: Tensor) -> Tensor:
        return super().forward(windows) + torch.stack([0.1 * torch.randn_like(windows), 0 * windows], dim=1)


@pytest.mark.parametrize(("shifts", "overlap"), [(0, 0.25), (1, 0.5), (2, 0.1), (4, 0.0)])
def test_agreement_of_passes_equals_their_error(shifts: int, overlap: float) -> None:
    torch.manual_seed(0)
    mix = Mix(torch.randn(2, 20_000))
    report = run(Batcher(), LoadedModel.of(Unsure()), mix, shifts=shifts, overlap=overlap)
    assert report.agreement_db["voice"] == pytest.approx(20, abs=0.5)
    assert (report.agreement_db["rest"] or 0) > 50
    louder = run(Batcher(), LoadedModel.of(Echo()), Mix(100 * mix.signal), shifts=shifts, overlap=overlap)
    assert (louder.agreement_db["voice"] or 0) > 50


def test_single_pass_has_no_agreement() -> None:
    report = run(Batcher(), LoadedModel.of(Unsure()), Mix(torch.randn(2, 2000)), shifts=0, overlap=0.0)
    assert report.agreement_db == {"voice": None, "rest": None}
    silent = run(Batcher(), LoadedModel.of(Echo()), Mix(torch.zeros(2, 2000)), shifts=2, overlap=0.25)
    assert silent.agreement_db == {"voice": None, "rest": None}
