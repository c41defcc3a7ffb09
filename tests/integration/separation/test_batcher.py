"""Several runs on one device: who is served, what they share, and how they end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from demucs.apply import BagOfModels
from torch import Tensor

from engine.errors import Cancelled, OutOfMemory
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.plan.overlap_add import StemBuffer
from engine.separation.plan.segments import Segment
from engine.separation.schedule import song_run
from engine.separation.schedule.batcher import Batcher
from engine.separation.schedule.song_run import SongRun
from tests.fixtures.echo_network import RATE, SEGMENT_S, STEMS, Echo, Mix, Sink, constant, run
from tests.fixtures.tiny_models import awake, tiny_htdemucs


@pytest.mark.parametrize("max_batch", [1, 4])
def test_a_run_gives_every_sample_once_and_in_order(max_batch: int) -> None:
    mix, sink, seen = Mix(torch.randn(2, 1234)), Sink(), list[tuple[int, int]]()
    report = run(
        Batcher(max_batch=max_batch), LoadedModel.of(Echo()), mix, sink, shifts=3, overlap=0.25,
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    torch.testing.assert_close(sink.stem("voice"), mix.signal)
    torch.testing.assert_close(sink.stem("rest"), 2 * mix.signal)
    assert seen[-1] == (report.segments, report.segments)
    assert seen == sorted(seen)


def test_blocks_come_while_later_segments_are_still_ahead() -> None:
    sink, first = Sink(), list[int]()
    run(
        Batcher(), LoadedModel.of(Echo()), Mix(torch.randn(2, 3000)), sink, shifts=2, overlap=0.25,
        on_progress=lambda done, total: first.append(done) if sink.blocks else None,
    )  # fmt: skip
    assert first[0] < first[-1] / 4


def test_only_the_wanted_stems_come_out() -> None:
    sink = Sink()
    run(Batcher(), LoadedModel.of(Echo()), constant(1, 3), sink, stems=["voice"])
    assert {name for _, block in sink.blocks for name in block} == {"voice"}


def test_a_short_run_does_not_wait_behind_a_long_one() -> None:
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


def test_a_long_run_goes_on_while_short_ones_keep_coming() -> None:
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


def test_runs_share_batches_and_do_not_hear_each_other() -> None:
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


def test_low_memory_halves_the_batch_and_is_reported() -> None:
    network = Echo(fits=2)
    mix, sink = Mix(torch.randn(2, 2000)), Sink()
    report = run(Batcher(max_batch=8), LoadedModel.of(network), mix, sink)
    torch.testing.assert_close(sink.stem("voice"), mix.signal)
    assert report.notes == ("The batch was halved for want of memory.",)
    assert max(map(len, network.batches)) == 2


class ShortOfMemory:
    """Raises at some calls instead of calling through."""

    def __init__(self, call: Callable[..., Any], fails: Callable[[int], bool]) -> None:
        self.call = call
        self.fails = fails
        self.calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.fails(self.calls):
            raise MemoryError
        return self.call(*arguments, **options)


@pytest.mark.parametrize("where", ["StemBuffer.add", "StemBuffer.take", "_to_host"])
def test_sums_without_memory_are_tried_again(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    owner, name = (StemBuffer, where.partition(".")[2]) if "." in where else (song_run, where)
    short = ShortOfMemory(getattr(owner, name), lambda call: call in (3, 4, 6))
    monkeypatch.setattr(owner, name, lambda *given, **options: short(*given, **options))
    network, ready = Echo(), threading.Event()
    network.gate = lambda: ready.wait(60)
    batcher, model, mix, sink = Batcher(max_batch=8), LoadedModel.of(network), Mix(torch.randn(2, 2000)), Sink()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, batcher, model, constant(1, 1))  # holds the device until the batches below are full
        while not (runs := list(batcher._runs)) or not runs[0].taken:
            ready.wait(0.001)
        second = pool.submit(run, batcher, model, mix, sink, overlap=0.25, shifts=2)
        while len(runs := list(batcher._runs)) < 2 or len(runs[1].waiting) < 16:
            ready.wait(0.001)
        ready.set()
        first.result()
        report = second.result()
    torch.testing.assert_close(sink.stem("voice"), mix.signal)
    assert report.notes == ("The batch was halved for want of memory.",)


def test_window_without_memory_ends_only_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    network, ready = Echo(), threading.Event()
    network.gate = lambda: ready.wait(60)
    batcher, model = Batcher(max_batch=2), LoadedModel.of(network)
    add = StemBuffer.add

    def add_unless_poor(buffer: StemBuffer, segment: Segment, stems: Tensor) -> None:
        if stems.max() == 4:  # the second stem of a mix of twos
            raise MemoryError
        add(buffer, segment, stems)

    monkeypatch.setattr(StemBuffer, "add", add_unless_poor)
    with ThreadPoolExecutor(2) as pool:
        fine = pool.submit(run, batcher, model, constant(1, 5))
        while not (runs := list(batcher._runs)) or not runs[0].waiting:
            ready.wait(0.001)
        poor = pool.submit(run, batcher, model, constant(2, 1))
        while len(runs := list(batcher._runs)) < 2 or not runs[1].waiting:
            ready.wait(0.001)
        ready.set()
        with pytest.raises(OutOfMemory):
            poor.result()
        assert fine.result().segments == 5
    assert any(set(batch) == {1, 2} for batch in network.batches), "they shared a batch"


@pytest.mark.parametrize("members", [1, 4])
def test_two_batches_of_each_member_are_read_ahead(members: int) -> None:
    model = LoadedModel.of(BagOfModels([Echo() for _ in range(members)]))  # type: ignore[misc]
    batcher = Batcher(max_batch=16)
    song = SongRun(model, 1000, stems=STEMS, shifts=0, overlap=0.0, segment_s=None, seed=1)
    assert batcher._windows_ahead(song, 1000) == 32 * members
    assert batcher._windows_ahead(song, 44 * 44100 * 2 * 4) == 17 * members, "as much memory for each member"


def test_segment_out_of_memory_ends_only_that_run() -> None:
    batcher = Batcher(max_batch=2)
    with pytest.raises(OutOfMemory):
        run(batcher, LoadedModel.of(Echo(fits=0)), constant(1, 5))
    run(batcher, LoadedModel.of(Echo()), constant(1, 5))


def test_a_defect_in_the_network_reaches_the_caller() -> None:
    network = Echo()

    def broken() -> None:
        raise ZeroDivisionError

    network.gate = broken
    with pytest.raises(ZeroDivisionError):
        run(Batcher(), LoadedModel.of(network), constant(1, 5))


def test_a_failing_sink_ends_only_its_own_run() -> None:
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


def test_a_cancelled_run_ends_at_once_and_the_others_go_on() -> None:
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


def test_closing_ends_what_runs_and_leaves_no_thread() -> None:
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


def test_memory_does_not_grow_with_the_song() -> None:
    network = Echo()
    batcher, model = Batcher(), LoadedModel.of(network)
    held = list[int]()

    class Watching(Sink):
        def write(self, start: int, stems: dict[str, Tensor]) -> None:
            (running,) = batcher._runs
            buffered = running.buffer._data.shape[-1] if running.buffer is not None else 0
            held.append(buffered + sum(window.shape[-1] for _, window in running.waiting))

    run(batcher, model, constant(1, 600), Watching(), shifts=2, overlap=0.25)
    assert max(held) < 15 * SEGMENT_S * RATE


class Unsure(Echo):
    """Every pass has a new error: a tenth of the mix in the first stem, none in the second."""

    def forward(self, windows: Tensor) -> Tensor:
        return super().forward(windows) + torch.stack([0.1 * torch.randn_like(windows), 0 * windows], dim=1)


@pytest.mark.parametrize(("shifts", "overlap"), [(0, 0.25), (1, 0.5), (2, 0.1), (4, 0.0)])
def test_the_agreement_of_the_passes_tells_how_far_they_err(shifts: int, overlap: float) -> None:
    torch.manual_seed(0)
    mix = Mix(torch.randn(2, 20_000))
    report = run(Batcher(), LoadedModel.of(Unsure()), mix, shifts=shifts, overlap=overlap)
    assert report.agreement_db["voice"] == pytest.approx(20, abs=0.5)
    assert (report.agreement_db["rest"] or 0) > 50
    louder = run(Batcher(), LoadedModel.of(Echo()), Mix(100 * mix.signal), shifts=shifts, overlap=overlap)
    assert (louder.agreement_db["voice"] or 0) > 50


def test_one_pass_over_every_sample_agrees_with_nothing() -> None:
    report = run(Batcher(), LoadedModel.of(Unsure()), Mix(torch.randn(2, 2000)), shifts=0, overlap=0.0)
    assert report.agreement_db == {"voice": None, "rest": None}
    silent = run(Batcher(), LoadedModel.of(Echo()), Mix(torch.zeros(2, 2000)), shifts=2, overlap=0.25)
    assert silent.agreement_db == {"voice": None, "rest": None}
