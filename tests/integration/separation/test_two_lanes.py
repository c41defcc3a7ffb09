"""Two windows at once on a CPU."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import torch
from torch import Tensor

from engine.separation.models.loaded_model import LoadedModel
from engine.separation.network.forward import forward_of
from engine.separation.schedule.batcher import Batcher
from engine.separation.schedule.two_lanes import TwoLanes
from tests.fixtures.echo_network import RATE, SEGMENT_S, Echo, Mix, Sink, run
from tests.fixtures.signals import noise, snr_db
from tests.fixtures.tiny_models import awake, tiny_htdemucs


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def beside() -> Iterator[TwoLanes]:
    found = TwoLanes(2, 1)
    yield found
    found.close()


def test_windows_at_once_give_what_they_give_one_after_the_other(beside: TwoLanes) -> None:
    forward = forward_of(awake(tiny_htdemucs()))
    windows = [noise(2, 20_000), noise(2, 20_001)[:, 1:]]
    for window, found in zip(windows, beside(forward, windows), strict=True):
        assert snr_db(forward(window[None])[0], found) > 100


def test_two_windows_share_the_threads(beside: TwoLanes) -> None:
    meeting, threads = threading.Barrier(2, timeout=20), list[int]()

    def forward(windows: Tensor) -> Tensor:
        meeting.wait()  # no thread comes here alone
        threads.append(torch.get_num_threads())
        return windows

    beside(forward, [torch.zeros(2, 10), torch.zeros(2, 10)])
    later = threading.Thread(target=lambda: threads.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert threads == [1, 1, 2]
    assert torch.get_num_threads() == 2


def test_failed_window_raises_after_the_other_ends(beside: TwoLanes) -> None:
    begun, over = threading.Event(), threading.Event()

    def forward(windows: Tensor) -> Tensor:
        if windows.any():
            begun.wait(20)
            raise MemoryError
        begun.set()
        threading.Event().wait(0.2)
        over.set()
        return windows

    for windows in ([torch.ones(2, 10), torch.zeros(2, 10)], [torch.zeros(2, 10), torch.ones(2, 10)]):
        begun.clear()
        over.clear()
        with pytest.raises(MemoryError):
            beside(forward, windows)
        assert over.is_set()


def test_what_a_failed_window_held_is_let_go(beside: TwoLanes) -> None:
    held = list[weakref.ref[Tensor]]()

    def forward(windows: Tensor) -> Tensor:
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        raise MemoryError

    with pytest.raises(MemoryError):
        beside(forward, [torch.zeros(2, 10), torch.zeros(2, 10)])
    gone = [reference() is None for reference in held]
    assert gone == [True, True]


def together(network: Echo, paired: int) -> list[int]:
    """How many were in `network` at a time, by pass; of the first `paired` each waits until it is not alone."""
    lock, meeting, calls, inside, counts = threading.Lock(), threading.Barrier(2), count(), [0], list[int]()

    def gate() -> None:
        is_paired = next(calls) < paired
        with lock:
            inside[0] += 1
        _meet(meeting, is_paired)
        with lock:
            counts.append(inside[0])
        _meet(meeting, is_paired)
        with lock:
            inside[0] -= 1

    network.gate = gate
    return counts


def _meet(meeting: threading.Barrier, is_paired: bool) -> None:
    if is_paired:
        meeting.wait(20)


@pytest.mark.parametrize(("segments", "expected"), [(1, [1]), (6, [2] * 6), (7, [2] * 6 + [1])])
def test_a_song_goes_through_in_pairs_and_comes_back_whole(segments: int, expected: list[int]) -> None:
    network, mix, sink = Echo(), Mix(torch.randn(2, int(segments * SEGMENT_S * RATE))), Sink()
    counts = together(network, expected.count(2))
    run(Batcher(), LoadedModel.of(network), mix, sink)
    torch.testing.assert_close(sink.stem("voice"), mix.signal)
    assert counts == expected
    assert {len(batch) for batch in network.batches} == {1}


def test_low_memory_runs_windows_one_by_one() -> None:
    class Cramped(Echo):
        def __init__(self) -> None:
            super().__init__()
            self.lock, self.meeting, self.calls, self.inside = threading.Lock(), threading.Barrier(2), count(), 0

        def forward(self, windows: Tensor) -> Tensor:
            with self.lock:
                self.inside += 1
            _meet(self.meeting, next(self.calls) < 2)
            try:
                if self.inside > 1:
                    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
                return super().forward(windows)
            finally:
                with self.lock:
                    self.inside -= 1

    mix, sink = Mix(torch.randn(2, int(6 * SEGMENT_S * RATE))), Sink()
    report = run(Batcher(), LoadedModel.of(Cramped()), mix, sink)
    torch.testing.assert_close(sink.stem("voice"), mix.signal)
    assert report.notes == ("The batch was halved for want of memory.",)


def test_stuck_sink_does_not_hold_neighbours_last_window() -> None:
    is_stuck, release = threading.Event(), threading.Event()

    class Stuck(Sink):
        def write(self, start: int, stems: dict[str, Tensor]) -> None:
            is_stuck.set()
            release.wait(60)

    _neighbour_ends_while_stuck(is_stuck, release, Mix(torch.randn(2, 4000)), Stuck())


def test_stuck_mix_does_not_hold_neighbours_last_window() -> None:
    is_stuck, release = threading.Event(), threading.Event()

    class Stuck(Mix):
        def read(self, start: int, stop: int) -> Tensor:
            if start > 0:
                is_stuck.set()
                release.wait(60)
            return super().read(start, stop)

    _neighbour_ends_while_stuck(is_stuck, release, Stuck(torch.randn(2, 4000)), Sink())


def test_stuck_callback_does_not_hold_neighbours_last_window() -> None:
    is_stuck, release = threading.Event(), threading.Event()

    def wait(done: int, total: int) -> None:
        is_stuck.set()
        release.wait(60)

    _neighbour_ends_while_stuck(is_stuck, release, Mix(torch.randn(2, 4000)), Sink(), on_progress=wait)


def _neighbour_ends_while_stuck(
    is_stuck: threading.Event, release: threading.Event, mix: Mix, sink: Sink, **how: object
) -> None:
    batcher, model = Batcher(), LoadedModel.of(Echo())
    neighbour = Mix(torch.randn(2, int(3 * SEGMENT_S * RATE)))
    with ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(run, batcher, model, mix, sink, **how)
        try:
            assert is_stuck.wait(20)
            for _ in range(3):  # the first ones may pair with windows that the stuck run has read
                found = Sink()
                assert pool.submit(run, batcher, model, neighbour, found).result(20).segments == 3
                torch.testing.assert_close(found.stem("voice"), neighbour.signal)
            assert not stuck.done()
        finally:
            release.set()
        assert stuck.result(20).segments == 40


def test_no_thread_is_left_when_nothing_is_under_way() -> None:
    run(Batcher(), LoadedModel.of(Echo()), Mix(torch.randn(2, int(6 * SEGMENT_S * RATE))))
    for thread in threading.enumerate():
        if thread.name == "window":
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize("threads", [1, 3])
def test_odd_thread_count_runs_one_window(threads: int) -> None:
    torch.set_num_threads(threads)
    network, passes_in = Echo(), list[str]()
    network.gate = lambda: passes_in.append(threading.current_thread().name)
    run(Batcher(), LoadedModel.of(network), Mix(torch.randn(2, int(4 * SEGMENT_S * RATE))))
    assert len(passes_in) == 4
    assert "window" not in passes_in, "the threads for two windows are not used"
