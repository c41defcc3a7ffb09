"""The runs of a device and which of their windows the device computes next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from torch import Tensor

from engine.separation.models.loaded_model import LoadedModel
from engine.separation.plan.segments import Segment
from engine.separation.schedule.song_run import SongRun

Entry = tuple[SongRun, Segment, Tensor]

PAIR_WAIT_S = 0.1  # the longest that the last window of a run waits for a window of another run


class RunQueue:
    """Serves the run with the lowest turn, in virtual time, and fills its batch from the others.

    The batcher's lock guards it.
    """

    def __init__(self) -> None:
        self._runs: list[SongRun] = []
        self._clock = 0.0  # virtual time: the turn of the run that was served last
        self._pair_wait_ends_at: float | None = None  # None: no window waits for one of another run

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[SongRun]:
        return iter(self._runs)

    @property
    def waits_for_other_run(self) -> bool:
        """Whether the last `next_batch` left a window waiting, for at most `PAIR_WAIT_S`."""
        return self._pair_wait_ends_at is not None

    def add(self, run: SongRun) -> None:
        self._runs.append(run)

    def remove(self, run: SongRun) -> None:
        run.is_over = True
        run.waiting.clear()
        self._runs.remove(run)

    def add_window(self, run: SongRun, segment: Segment, window: Tensor) -> None:
        """Let a window wait for the device; a run that had none waiting gains no credit for that time."""
        if not run.waiting:
            run.turn = max(run.turn, self._clock)
        run.waiting.append((segment, window))

    def next_batch(self, limit_of: Callable[[LoadedModel], int], *, in_pairs: bool) -> list[Entry]:
        """Remove and return the windows of the next batch, at most `limit_of` its model; none if all have to wait."""
        batch: list[Entry] = []
        key: tuple[int, int, int] | None = None
        limit = 0 if in_pairs and self._waits_for_pair() else 1
        while len(batch) < limit:
            choices = [(run.turn, i) for i, run in enumerate(self._runs) if run.next_with(key) is not None]
            if not choices:
                break
            run = self._runs[min(choices)[1]]
            if key is None:
                self._clock = run.turn
                limit = limit_of(run.model)
            index = run.next_with(key)
            assert index is not None
            segment, window = run.take_window(index)
            key = run.key(segment)
            batch.append((run, segment, window))
        return batch

    def _waits_for_pair(self) -> bool:
        """Return whether the only window that was read should wait for a second one.

        It waits for the next window of its run. It waits for another run only while that run reads its mix, and at most
        `PAIR_WAIT_S`, so that a slow mix or sink does not delay other runs.
        """
        owners = [run for run in self._runs for _ in run.waiting]
        if len(owners) == 1:
            (owner,) = owners
            if owner.taken + 1 < owner.total:
                return True
            if any(run.is_reading and run.taken < run.total for run in self._runs if run is not owner):
                now = time.monotonic()
                if self._pair_wait_ends_at is None:
                    self._pair_wait_ends_at = now + PAIR_WAIT_S
                if now < self._pair_wait_ends_at:
                    return True
        self._pair_wait_ends_at = None
        return False
