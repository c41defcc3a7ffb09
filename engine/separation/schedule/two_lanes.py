"""Two windows on a CPU at once, each with its share of the threads.

Two threads that go through the network each for itself wait for one another once in a pass, and not in every one of its
hundreds of operations; and each finds in its core's cache what it just wrote there.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from queue import SimpleQueue

import torch
from torch import Tensor

from engine.separation.network.forward import Forward
from engine.separation.ops.device import WINDOWS_AT_ONCE

_Task = tuple[Forward, Tensor, Future[Tensor]]


class TwoLanes:
    """Used by one thread. Its own threads begin with the first windows and end with `close`, or with the process."""

    def __init__(self, threads: int, share: int) -> None:
        """`threads`: of the process; `share`: of a window."""
        self._threads = threads
        self._share = share
        self._tasks: SimpleQueue[_Task | None] | None = None

    def __call__(self, forward: Forward, windows: list[Tensor]) -> list[Tensor]:
        """Separate windows of (channels, samples) into (stems, channels, samples) each, as `forward` one by one.

        When one fails, the others have ended too.
        """
        tasks = self._begun()
        lanes = [Future[Tensor]() for _ in windows]
        for window, lane in zip(windows, lanes, strict=True):
            tasks.put((forward, window, lane))
        try:
            wait(lanes)
            return [lanes.pop(0).result() for _ in windows]
        finally:
            lanes.clear()  # an error would keep them, they the error, and it the tensors of the pass that failed

    def close(self) -> None:
        """To be called when no window is under way."""
        if self._tasks is not None:
            for _ in range(WINDOWS_AT_ONCE):
                self._tasks.put(None)
            self._tasks = None

    def _begun(self) -> SimpleQueue[_Task | None]:
        if self._tasks is None:
            self._tasks = SimpleQueue()
            started = threading.Barrier(WINDOWS_AT_ONCE + 1)
            for _ in range(WINDOWS_AT_ONCE):
                work = (self._tasks, self._share, started)
                threading.Thread(target=_work, args=work, name="window", daemon=True).start()
            started.wait()
            torch.set_num_threads(self._threads)  # also what threads begin with that come later
        return self._tasks


def _work(tasks: SimpleQueue[_Task | None], share: int, started: threading.Barrier) -> None:
    torch.get_num_threads()  # a thread's first use of torch gives it the number of the process
    torch.set_num_threads(share)
    started.wait()
    while (task := tasks.get()) is not None:
        forward, window, lane = task
        try:
            lane.set_result(forward(window[None])[0])
        except BaseException as error:
            lane.set_exception(error)
        del task, forward, window, lane
