"""The waiting jobs in the order in which they will be claimed, for places and estimates. Reads only."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import accumulate

from engine.database.database import Database
from engine.database.sql import QUERIES


@dataclass(frozen=True)
class QueuePosition:
    """Where a waiting job stands, as if nothing ended meanwhile."""

    place: int  # 1 is next
    ahead_s: float  # estimated seconds of all that will be claimed before it


_EXACT_UP_TO_JOBS = 200
_CACHE_TTL_S = 1.0


class Queue:
    """Asked for every job that somebody watches, so the line is read once for all of them, until it changes; a line
    of more than `_EXACT_UP_TO_JOBS` changes all the time, and is read again after `_CACHE_TTL_S` seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changes = 0
        self._places: dict[str, int] = {}
        self._ahead_s: list[float] = [0.0]  # of the first, the second, …; and of one behind them all
        self._line_of = -1  # the number of changes that the line knows of
        self._read_at = 0.0  # by the monotonic clock
        self._reading = asyncio.Lock()

    def changed(self) -> None:
        """A job has come, gone or ended."""
        self._changes += 1

    async def standing(self, job_id: str) -> QueuePosition | None:
        """None when the job does not wait."""
        async with self._reading:
            is_old = len(self._places) <= _EXACT_UP_TO_JOBS or time.monotonic() - self._read_at >= _CACHE_TTL_S
            if self._line_of != self._changes and is_old:
                await self._read()
        place = self._places.get(job_id)
        if place is None and self._line_of != self._changes:  # it has come since the line was read
            row = await self._database.read_one(QUERIES["queue_place"], {"id": job_id})
            place = None if row is None else int(row["place"])
        if place is None:
            return None
        return QueuePosition(place, self._ahead_s[min(place, len(self._ahead_s)) - 1])

    async def _read(self) -> None:
        changes = self._changes  # one that comes while we read makes this an old line
        rows = await self._database.read(QUERIES["queue"], {"limit": 10_000})
        self._places = {row["id"]: place for place, row in enumerate(rows, 1)}
        self._ahead_s = list(accumulate((float(row["estimated_duration"]) for row in rows), initial=0.0))
        self._line_of, self._read_at = changes, time.monotonic()
