"""Two windows on a CPU at once, each with its share of the threads.

Threads that share one pass synchronise in each of its hundreds of operations. Two independent passes synchronise once,
and each finds its last results in the cache of its core.
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
        tasks = self._start_threads()
        lanes = [Future[Tensor]() for _ in windows]
        for window, lane in zip(windows, lanes, strict=True):
            tasks.put((forward, window, lane))
        try:
            wait(lanes)
            return [lanes.pop(0).result() for _ in windows]
        finally:
            lanes.clear()  # breaks the cycle that would keep the tensors of a failed pass

    def close(self) -> None:
        """End the threads. Call it only while no window is being computed."""
        if self._tasks is not None:
            for _ in range(WINDOWS_AT_ONCE):
                self._tasks.put(None)
            self._tasks = None

    def _start_threads(self) -> SimpleQueue[_Task | None]:
        if self._tasks is None:
            self._tasks = SimpleQueue()
            started = threading.Barrier(WINDOWS_AT_ONCE + 1)
            for _ in range(WINDOWS_AT_ONCE):
                work = (self._tasks, self._share, started)
                threading.Thread(target=_work, args=work, name="window", daemon=True).start()
            started.wait()
            torch.set_num_threads(self._threads)  # also the default of later threads
        return self._tasks


def _work(tasks: SimpleQueue[_Task | None], share: int, started: threading.Barrier) -> None:
    torch.get_num_threads()  # the first use of torch in a thread resets the number
    torch.set_num_threads(share)
    started.wait()
    while (task := tasks.get()) is not None:
        forward, window, lane = task
        try:
            lane.set_result(forward(window[None])[0])
        except BaseException as error:
            lane.set_exception(error)
        del task, forward, window, lane
