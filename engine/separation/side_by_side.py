"""Two windows on a CPU at once, each with its share of the threads.

Two threads that go through the network each for itself wait for one another once in a pass, and not in every one of its
hundreds of operations; and each finds in its core's cache what it just wrote there.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from engine.separation.device import WINDOWS_AT_ONCE
from engine.separation.forward import Forward


class SideBySide:
    """Used by one thread."""

    def __init__(self) -> None:
        self._lanes = ThreadPoolExecutor(WINDOWS_AT_ONCE, "window")

    def __call__(self, forward: Forward, windows: list[Tensor]) -> list[Tensor]:
        """(channels, samples) each → (stems, channels, samples) each. As `forward` of one after the other."""
        threads = torch.get_num_threads()
        share = max(1, threads // len(windows))

        def one(window: Tensor) -> Tensor:
            torch.set_num_threads(share)  # of this thread; for libraries below, of the process
            return forward(window[None])[0]

        try:
            return list(self._lanes.map(one, windows))
        finally:
            torch.set_num_threads(threads)
