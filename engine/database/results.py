"""Results that can answer the same request again: the same audio, options and weights."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import aiosqlite

from engine.database.database import Database, Step
from engine.database.queue_positions import Queue
from engine.database.rows import from_row, to_row, to_us
from engine.database.sql import QUERIES
from engine.jobs.job import Job
from engine.jobs.results import JobResult

_COPYING_AT_MOST = timedelta(hours=1)


class Results:
    """The completed jobs whose files are still there; triggers add and delete them."""

    def __init__(self, database: Database, queue: Queue, now: Callable[[], datetime]) -> None:
        self._database = database
        self._queue = queue
        self._now = now

    async def equal_to(self, job: Job, audio: str, model_version: str) -> list[str]:
        """Return the ids of jobs that did what `job` asks for, newest first, of its owner or in its place."""
        row = to_row(job)
        params = {name: row[name] for name in ("owner", "place", "options")}
        params |= {"audio": audio, "model_version": model_version}
        return [str(each["job_id"]) for each in await self._database.read(QUERIES["equal_results"], params)]

    async def announce(self, job_id: str) -> None:
        """Note that files are copied to a job that is not stored yet; without it they are deleted in an hour."""
        at = to_us(self._now() + _COPYING_AT_MOST)
        await self._database.run(QUERIES["note_deletion"], {"id": job_id, "now": at})

    async def add(self, job: Job, result: JobResult, *, also: Step | None = None) -> Job:
        """Store a new job that is completed from the start; `also` runs in the same transaction.

        Raises `AlreadyAccepted` for a known id, and what `also` raises.
        """
        params = {"id": job.id, "now": to_us(self._now()), "attempt": 1, "actual_duration": 0}
        params["result"] = result.model_dump_json()

        async def work(writer: aiosqlite.Connection) -> Job:
            await writer.execute_fetchall(QUERIES["add_job"], to_row(job))
            await writer.execute_fetchall(QUERIES["forget_deletion"], params)
            await writer.execute_fetchall(QUERIES["claim_job"], params)
            if also is not None:
                await also(writer)
            (row,) = await writer.execute_fetchall(QUERIES["complete"], params)
            return from_row(row)

        completed = await self._database.write(work)
        self._queue.changed()
        return completed
