"""Notification of the readers that watch a job."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from engine.dispatch.progress import ProgressTracker
from engine.jobs.job import JobView


class _Intervals(NamedTuple):
    refresh_s: float  # between two views
    reload_s: float  # between two reads of the database, if nothing is reported


_WAITING = _Intervals(refresh_s=5.0, reload_s=5.0)  # queue positions change without a notification
_RUNNING = _Intervals(refresh_s=1.0, reload_s=30.0)


class Watcher:
    """One reader of one job.

    It wakes at once for every change but progress, which it polls from memory.
    """

    def __init__(self, progress: ProgressTracker, job_id: str) -> None:
        self._progress = progress
        self._job_id = job_id
        self._changed = asyncio.Event()
        self.mark_loaded()

    def notify(self) -> None:
        if self._version is None or self._progress.version(self._job_id) != self._version:
            self._changed.set()

    def mark_loaded(self) -> None:
        """Note that the job is about to be read from the database."""
        self._changed.clear()
        self._version = self._progress.version(self._job_id)
        self._loaded_at = time.monotonic()

    async def wait(self) -> bool:
        """Wait until the job should be shown again; return whether it must be read from the database first."""
        intervals = _WAITING if self._version is None else _RUNNING
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(intervals.refresh_s):
                await self._changed.wait()
        return self._changed.is_set() or time.monotonic() - self._loaded_at >= intervals.reload_s


class Watchers:
    def __init__(self, progress: ProgressTracker) -> None:
        self._progress = progress
        self._by_job: dict[str, set[Watcher]] = {}
        progress.subscribe(self.notify)

    def notify(self, job_id: str) -> None:
        for watcher in self._by_job.get(job_id, ()):
            watcher.notify()

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Watcher]:
        watcher = Watcher(self._progress, job_id)
        self._by_job.setdefault(job_id, set()).add(watcher)
        try:
            yield watcher
        finally:
            watchers = self._by_job[job_id]
            watchers.discard(watcher)
            if not watchers:
                del self._by_job[job_id]


def has_changed(before: JobView, after: JobView) -> bool:
    """Return whether a watcher should get the new view; the remaining time alone changes constantly."""
    shown = [(view.job, view.queue_place, view.no_worker, view.links_expire_at) for view in (before, after)]
    return shown[0] != shown[1]
