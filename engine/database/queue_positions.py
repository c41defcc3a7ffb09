"""Queue positions of the pending jobs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import accumulate

from engine.database.database import Database
from engine.database.sql import QUERIES


@dataclass(frozen=True)
class QueuePosition:
    """The position of a pending job if no running job ended before."""

    place: int  # 1 is next
    ahead_s: float  # estimated seconds of the jobs that come before it


_EXACT_UP_TO_JOBS = 200
_CACHE_TTL_S = 1.0


class Queue:
    """A cache of the claim order, which is needed for every watched job.

    It is read again when a job changes; beyond `_EXACT_UP_TO_JOBS` pending jobs, at most once in `_CACHE_TTL_S`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changes = 0
        self._places: dict[str, int] = {}
        self._ahead_s: list[float] = [0.0]  # of the first, the second, … and of one behind the last
        self._cached_changes = -1  # `_changes` when the order was read
        self._read_at = 0.0  # monotonic
        self._reading = asyncio.Lock()

    def changed(self) -> None:
        """Note that a job was added, claimed, finished or deleted."""
        self._changes += 1

    async def standing(self, job_id: str) -> QueuePosition | None:
        """Return the position of a job, or None if it is not pending."""
        async with self._reading:
            may_read = len(self._places) <= _EXACT_UP_TO_JOBS or time.monotonic() - self._read_at >= _CACHE_TTL_S
            if self._cached_changes != self._changes and may_read:
                await self._read()
        place = self._places.get(job_id)
        if place is None and self._cached_changes != self._changes:  # added since the order was read
            row = await self._database.read_one(QUERIES["queue_place"], {"id": job_id})
            place = None if row is None else int(row["place"])
        if place is None:
            return None
        return QueuePosition(place, self._ahead_s[min(place, len(self._ahead_s)) - 1])

    async def _read(self) -> None:
        changes = self._changes  # a change during the read makes the result stale
        rows = await self._database.read(QUERIES["queue"], {"limit": 10_000})
        self._places = {row["id"]: place for place, row in enumerate(rows, 1)}
        self._ahead_s = list(accumulate((float(row["estimated_duration"]) for row in rows), initial=0.0))
        self._cached_changes, self._read_at = changes, time.monotonic()
