"""Batches under low memory, and how much memory a run holds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from demucs.apply import BagOfModels
from torch import Tensor

from engine.errors import OutOfMemory
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.plan.overlap_add import StemBuffer
from engine.separation.plan.segments import Segment
from engine.separation.schedule import song_run
from engine.separation.schedule.batcher import Batcher
from engine.separation.schedule.song_run import RunReport, SongRun
from tests.fixtures.echo_network import RATE, SEGMENT_S, STEMS, Echo, Mix, Sink, constant, run


def run_in_full_batches(network: Echo, mix: Mix, sink: Sink, **options: float) -> RunReport:
    """Run a mix of 16 segments or more in batches of 8, which another run delays until they are full."""
    batcher, model, ready = Batcher(max_batch=8), LoadedModel.of(network), threading.Event()
    network.gate = lambda: ready.wait(60)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, batcher, model, constant(1, 1))
        while not (runs := list(batcher._runs)) or not runs[0].taken:
            ready.wait(0.001)
        second = pool.submit(run, batcher, model, mix, sink, **options)
        while len(runs := list(batcher._runs)) < 2 or len(runs[1].waiting) < 16:
            ready.wait(0.001)
        ready.set()
        first.result()
        return second.result()


def test_low_memory_halves_the_batch_and_is_reported() -> None:
    network = Echo(fits=2)
    mix, sink = Mix(torch.randn(2, 2000)), Sink()
    report = run_in_full_batches(network, mix, sink)
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
    mix, sink = Mix(torch.randn(2, 2000)), Sink()
    report = run_in_full_batches(Echo(), mix, sink, overlap=0.25, shifts=2)
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
