"""The store of jobs, and the only writer of their status.

Each write is one transaction whose WHERE allows only the legal steps of `engine.jobs.job.TRANSITIONS`, and only the
current attempt. Triggers in schema.sql reject illegal steps from any other SQL.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import aiosqlite

from engine.clock import utc_now
from engine.database.archive import Archive
from engine.database.database import Database, Step
from engine.database.errors import StoreDamaged
from engine.database.migrations import MIGRATIONS
from engine.database.queue_limits import QueueLimits, check_queue_limits
from engine.database.queue_positions import Queue, QueuePosition
from engine.database.results import Results
from engine.database.rows import JobSummary, decode_rows, from_row, to_row, to_us
from engine.database.speeds import Speeds
from engine.database.sql import QUERIES
from engine.errors import IllegalTransition
from engine.jobs.job import Job, JobStatus, Stage
from engine.jobs.results import JobResult

log = logging.getLogger(__name__)

ARCHIVE_BATCH = 500


@dataclass(frozen=True)
class ProgressUpdate:
    """The progress of an attempt, in percent."""

    job_id: str
    attempt: int
    stage: Stage
    progress: int


class JobStore:
    """Jobs in the hot database and in the archive, from `open`."""

    def __init__(self, database: Database, archive: Archive, now: Callable[[], datetime]) -> None:
        self.database = database
        self.archive = archive
        self._now = now
        self._queue = Queue(database)
        self.results = Results(database, self._queue, now)
        self.speeds = Speeds(database)
        self._moving = asyncio.Lock()  # held while jobs move to the archive

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        now: Callable[[], datetime] = utc_now,
        readers: int = 3,
        migrations: Sequence[str] = MIGRATIONS,
        busy_limit_s: float = 15.0,
    ) -> Self:
        """Open the hot database at `path` and the archive beside it. Raises what `Database.open` raises."""
        database = await Database.open(path, readers=readers, migrations=migrations, busy_limit_s=busy_limit_s)
        return cls(database, Archive(path.parent / "archive"), now)

    async def close(self) -> None:
        async with self._moving:
            await self.database.close()

    async def add(self, job: Job, limits: QueueLimits, *, also: Step | None = None) -> None:
        """Accept a pending job; it survives `kill -9` once this has returned.

        `also` runs in the same transaction (`Quota.spend_in`); what it raises rejects the job. Raises `QueueFull`
        with the seconds until a retry makes sense, `AlreadyAccepted` for a known id, `IllegalTransition` for a job
        that is not pending.
        """
        if job.status is not JobStatus.PENDING:
            raise IllegalTransition(f"A new job must be pending, not {job.status}.")
        row = to_row(job)

        async def work(writer: aiosqlite.Connection) -> None:
            await check_queue_limits(writer.execute_fetchall, job.owner, job.scope, limits)
            await writer.execute_fetchall(QUERIES["add_job"], row)
            await writer.execute_fetchall(QUERIES["forget_deletion"], row)  # of files copied for it
            if also is not None:
                await also(writer)

        await self.database.write(work)
        self._queue.changed()

    async def check_queue_limits(self, owner: str, scope: str | None, limits: QueueLimits) -> None:
        """Raise `QueueFull` unless a job of `owner` in `scope` could be added now."""
        await check_queue_limits(self.database.read, owner, scope, limits)

    async def get(self, job_id: str) -> Job | None:
        """Return a job, also from the archive. Raises `StoreDamaged` if the archive of its month is damaged."""
        row = await self.database.read_one(QUERIES["job"], {"id": job_id})
        if row is not None:
            return from_row(row)
        try:
            return await asyncio.to_thread(self.archive.get, job_id)
        except ValueError:  # not a UUID
            return None

    async def list_by_owner(self, owner: str, *, limit: int, offset: int = 0, active_only: bool = False) -> list[Job]:
        """Return the owner's jobs without the newest `offset` ones, newest first, archived ones last."""
        query = QUERIES["active_jobs_of"] if active_only else QUERIES["jobs_of"]
        rows = await self.database.read(query, {"owner": owner, "limit": limit, "offset": offset})
        jobs = decode_rows(rows)
        if not active_only and len(rows) < limit:
            known = {row["id"] for row in await self.database.read(QUERIES["ids_of"], {"owner": owner})}
            skipped = max(0, offset - len(known))
            try:
                older = await asyncio.to_thread(self.archive.of, owner, limit - len(rows), skipped)
            except StoreDamaged as error:
                log.error("could not read the whole archive: %s", error.detail)
                older = []
            jobs += [job for job in older if job.id not in known]  # a job being archived is in both
        return jobs

    async def ids_by_owner(self, owner: str) -> list[str]:
        """Return the ids of all jobs of an owner, including archived ones."""
        rows = await self.database.read(QUERIES["ids_of"], {"owner": owner})
        archived = await asyncio.to_thread(self.archive.ids_of, owner)
        return list(dict.fromkeys([*archived, *(str(row["id"]) for row in rows)]))

    async def claim(self) -> Job | None:
        """Claim the next job in fair order, as attempt 1; None if none is pending.

        A job is never claimed twice, by several processes either.
        """
        job = self._one(await self.database.run(QUERIES["claim"], self._params()))
        self._queue.changed()
        return job

    async def next_attempt(self, job_id: str, attempt: int) -> Job | None:
        """Start the attempt after `attempt`; None if that is not the current one or the job has finished."""
        return self._one(await self.database.run(QUERIES["next_attempt"], self._params(job_id, attempt)))

    async def save_progress(self, reports: Sequence[ProgressUpdate]) -> set[str]:
        """Save progress, and return the ids of the jobs whose attempt is still current.

        Progress never decreases.
        """
        rows = [
            {
                "id": each.job_id,
                "attempt": each.attempt,
                "stage": each.stage,
                "progress": min(99, max(0, each.progress)),
            }
            for each in reports
        ]
        saved = await self.database.run(
            QUERIES["save_progress"], {"reports": json.dumps(rows), "now": to_us(self._now())}
        )
        return {str(row["id"]) for row in saved}

    async def set_input(
        self,
        job_id: str,
        attempt: int,
        *,
        title: str,
        artist: str | None,
        input_size: int,
        input_duration: float | None,
        input_source: str | None = None,
    ) -> bool:
        """Store the metadata of a fetched link, and return False if the attempt is no longer current."""
        params = self._params(
            job_id,
            attempt,
            title=title,
            artist=artist,
            input_size=input_size,
            input_duration=input_duration,
            input_source=input_source,
        )
        return bool(await self.database.run(QUERIES["set_input"], params))

    async def complete(self, job_id: str, attempt: int, result: JobResult, actual_duration: int) -> Job | None:
        """Complete a job; None if the attempt is no longer current. Raises `ValueError` for another job's result."""
        if result.job_id != job_id:
            raise ValueError(f"result of job {result.job_id} given for job {job_id}")
        params = self._params(job_id, attempt, result=result.model_dump_json(), actual_duration=actual_duration)
        job = self._one(await self.database.run(QUERIES["complete"], params))
        self._queue.changed()  # the owner has one running job less, which changes the order
        return job

    async def fail(
        self,
        job_id: str,
        *,
        attempt: int | None,
        code: str,
        message: str,
        actual_duration: int | None = None,
        also: Step | None = None,
    ) -> Job | None:
        """Fail a job with a reason; None if it has finished or `attempt` is not the current one.

        `attempt=None` fails the job in any attempt, or while it is pending. `also` runs in the same transaction if
        the job fails.
        """
        params = self._params(job_id, attempt, code=code, message=message, actual_duration=actual_duration)

        async def work(writer: aiosqlite.Connection) -> list[Any]:
            rows = list(await writer.execute_fetchall(QUERIES["fail"], params))
            if rows and also is not None:
                await also(writer)
            return rows

        job = self._one(await self.database.write(work))
        self._queue.changed()
        return job

    async def processing(self) -> list[Job]:
        """Return the jobs in `processing`, oldest first; at start, those left by the last process."""
        return decode_rows(await self.database.read(QUERIES["processing_jobs"]))

    async def standing(self, job_id: str) -> QueuePosition | None:
        """Return the queue position of a job, or None if it is not pending."""
        return await self._queue.standing(job_id)

    async def counts(self) -> dict[JobStatus, int]:
        """Return the number of jobs by status, without archived ones, from counters that triggers maintain."""
        return {JobStatus(row["status"]): int(row["jobs"]) for row in await self.database.read(QUERIES["counts"])}

    async def keep(self, job_id: str, keep: bool) -> Job | None:
        """Set whether the stems of a job, archived or not, are kept beyond their retention time."""
        async with self._moving:
            job = self._one(await self.database.run(QUERIES["keep"], {"id": job_id, "keep": int(keep)}))
            return job or await asyncio.to_thread(self.archive.set_keep, job_id, keep)

    async def delete(self, job_id: str) -> bool:
        """Delete a job, also from the archive, and return False if it does not exist.

        The same transaction notes its files in `deletions`, for the sweeper to delete after a crash.
        """

        async def work(writer: aiosqlite.Connection) -> bool:
            is_deleted = bool(list(await writer.execute_fetchall(QUERIES["delete_job"], {"id": job_id})))
            if is_deleted or is_archived:
                await writer.execute_fetchall(QUERIES["note_deletion"], self._params(job_id))
            return is_deleted or is_archived

        async with self._moving:
            # The archive first: after a crash in between, the job is still there to be deleted again.
            is_archived = await asyncio.to_thread(self.archive.delete, job_id)
            is_known = await self.database.write(work)
            self._queue.changed()
            return is_known

    async def deletions(self) -> list[str]:
        """Return up to 500 deleted jobs whose files may still exist."""
        return [str(row["job_id"]) for row in await self.database.read(QUERIES["deletions"], self._params())]

    async def forget_deletion(self, job_id: str) -> None:
        """Note that the files of a deleted job no longer exist."""
        await self.database.run(QUERIES["forget_deletion"], {"id": job_id})

    async def forget_idle_owners(self) -> None:
        """Delete the turns of owners without a job in the last thousand claims."""
        await self.database.run(QUERIES["forget_idle_owners"])

    async def forget_owner(self, owner: str) -> None:
        """Delete the turns of an owner who has no pending or running job."""
        await self.database.run(QUERIES["forget_owner"], {"owner": owner})

    async def summaries(self, job_ids: Sequence[str]) -> dict[str, JobSummary]:
        """Return summaries by id of the jobs that are not archived."""
        rows = await self.database.read(QUERIES["summaries"], {"ids": json.dumps(list(job_ids))})
        return {row["id"]: JobSummary.of_row(row) for row in rows}

    async def archive_finished(self, status: JobStatus, before: datetime, *, limit: int = ARCHIVE_BATCH) -> int:
        """Move up to `limit` jobs that ended with `status` before `before`, and return how many.

        Safe to repeat after a crash at any point.
        """

        async def work(writer: aiosqlite.Connection) -> None:
            await writer.executemany(
                QUERIES["remove_archived"], [{"id": job.id, "keep": int(job.keep)} for job in jobs]
            )

        async with self._moving:
            params = {"status": status, "before": to_us(before), "limit": limit}
            jobs = [from_row(row) for row in await self.database.read(QUERIES["over_since"], params)]
            if jobs:
                await asyncio.to_thread(self.archive.add, jobs)
                await self.database.write(work)
            return len(jobs)

    def _params(self, job_id: str | None = None, attempt: int | None = None, **more: object) -> dict[str, Any]:
        return {"now": to_us(self._now()), "id": job_id, "attempt": attempt, **more}

    @staticmethod
    def _one(rows: Sequence[Any]) -> Job | None:
        return from_row(rows[0]) if rows else None
