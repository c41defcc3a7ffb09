"""Two windows at once on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from engine.separation.batcher import Batcher
from engine.separation.forward import forward_of
from engine.separation.loaded import LoadedModel
from engine.separation.side_by_side import SideBySide
from tests.integration.test_separation_batcher import RATE, SEGMENT_S, Echo, Mix, Sink, run
from tests.signals import noise, snr_db
from tests.tiny_models import awake, tiny_htdemucs


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_windows_at_once_give_what_they_give_one_after_the_other() -> None:
    forward = forward_of(awake(tiny_htdemucs()))
    windows = [noise(2, 20_000), noise(2, 20_001)[:, 1:]]
    together = SideBySide()(forward, windows)
    for window, found in zip(windows, together, strict=True):
        assert snr_db(forward(window[None])[0], found) > 100


def test_the_threads_are_shared_while_two_windows_are_under_way_and_given_back_after() -> None:
    meeting, threads = threading.Barrier(2, timeout=20), list[int]()

    def forward(windows: Tensor) -> Tensor:
        meeting.wait()  # nobody comes here alone
        threads.append(torch.get_num_threads())
        return windows

    SideBySide()(forward, [torch.zeros(2, 10), torch.zeros(2, 10)])
    assert threads == [1, 1]
    assert torch.get_num_threads() == 2


def test_a_song_goes_through_in_pairs_and_comes_back_whole() -> None:
    network, mix, sink = Echo(), Mix(torch.randn(2, int(9.5 * SEGMENT_S * RATE))), Sink()
    most, inside, lock = 0, 0, threading.Lock()
    met = threading.Event()

    def gate() -> None:
        nonlocal most, inside
        with lock:
            inside += 1
            most = max(most, inside)
            if inside == 2:
                met.set()
        if len(network.batches) < 3:  # the first may be alone, and the last
            met.wait(0.5)
        with lock:
            inside -= 1

    network.gate = gate
    run(Batcher(), LoadedModel.of(network), mix, sink)
    torch.testing.assert_close(sink.stem("voice"), mix.signal)
    assert most == 2
    assert {len(batch) for batch in network.batches} == {1}


def test_without_room_for_two_windows_they_go_one_after_the_other() -> None:
    class Cramped(Echo):
        inside = 0

        def forward(self, windows: Tensor) -> Tensor:
            self.inside += 1
            try:
                met.wait(0.2)
                if self.inside > 1:
                    met.set()
                    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
                return super().forward(windows)
            finally:
                self.inside -= 1

    met = threading.Event()
    mix, sink = Mix(torch.randn(2, int(6 * SEGMENT_S * RATE))), Sink()
    report = run(Batcher(), LoadedModel.of(Cramped()), mix, sink)
    torch.testing.assert_close(sink.stem("voice"), mix.signal)
    assert met.is_set()
    assert report.notes == ("The batch was halved for want of memory.",)


def test_one_thread_takes_one_window_at_a_time() -> None:
    torch.set_num_threads(1)
    network = Echo()
    most = [0, 0]

    def gate() -> None:
        most[0] += 1
        most[1] = max(most)
        threading.Event().wait(0.02)
        most[0] -= 1

    network.gate = gate
    run(Batcher(), LoadedModel.of(network), Mix(torch.randn(2, int(6 * SEGMENT_S * RATE))))
    assert most[1] == 1
