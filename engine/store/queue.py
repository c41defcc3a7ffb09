"""The waiting jobs in the order in which they will be claimed, for places and estimates. Reads only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from engine.options import Quality
from engine.store.database import Database
from engine.store.sql import Queries


@dataclass(frozen=True)
class QueuedJob:
    """A job that waits, as far as an estimate needs it."""

    id: str
    model: str
    quality: Quality
    input_duration: float | None  # seconds
    estimated_duration: int  # seconds


class Queue:
    """Each place is as if nothing ended meanwhile."""

    def __init__(self, database: Database, sql: Queries) -> None:
        self._database = database
        self._sql = sql
        self._changes = 0
        self._line: list[QueuedJob] = []
        self._places: dict[str, int] = {}
        self._line_of = -1  # the number of changes that `_line` knows of
        self._reading = asyncio.Lock()

    def changed(self) -> None:
        """A job has come, gone or ended."""
        self._changes += 1

    async def place(self, job_id: str) -> int | None:
        """1 is next; None when the job does not wait."""
        row = await self._database.read_one(self._sql.queue_place, {"id": job_id})
        return None if row is None else int(row["place"])

    async def line(self, *, limit: int = 10_000) -> list[QueuedJob]:
        """What waits, next first."""
        rows = await self._database.read(self._sql.queue, {"limit": limit})
        return [
            QueuedJob(
                row["id"], row["model"], Quality(row["quality"]), row["input_duration"], row["estimated_duration"]
            )
            for row in rows
        ]

    async def ahead(self, job_id: str) -> list[QueuedJob]:
        """What will be claimed before this job. Asked for every job that somebody watches, so the line is read once
        for all of them, until it changes."""
        async with self._reading:
            if self._line_of != self._changes:
                changes = self._changes  # one that comes while we read makes this an old line
                self._line = await self.line()
                self._places = {queued.id: place for place, queued in enumerate(self._line)}
                self._line_of = changes
        return self._line[: self._places.get(job_id, 0)]
