"""The jobs: accepted, claimed in fair order, moved forward, archived. The only writer of their status.

Each write is one transaction in which the step is part of the WHERE (made from `engine.jobs.job.TRANSITIONS`), fenced
by the attempt where a worker is behind it; triggers in schema.sql refuse an illegal step even from raw SQL.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import aiosqlite

from engine.database.archive import Archive
from engine.database.database import Database
from engine.database.errors import StoreDamaged
from engine.database.migrations import MIGRATIONS
from engine.database.queue import Queue, QueuePosition
from engine.database.queue_limits import Caps, check_caps
from engine.database.rows import from_row, from_us, to_row, to_us, utc_now
from engine.database.sql import QUERIES
from engine.errors import IllegalTransition
from engine.jobs.job import Job, JobStatus, Stage
from engine.jobs.results import JobResult

log = logging.getLogger(__name__)

ARCHIVE_BATCH = 500


@dataclass(frozen=True)
class ProgressUpdate:
    """How far an attempt is."""

    job_id: str
    attempt: int
    stage: Stage
    progress: int


@dataclass(frozen=True)
class JobSummary:
    """As much of a job as the sweeper needs."""

    status: JobStatus
    attempt: int
    updated_at: datetime  # of a job that is over: when it ended
    keep: bool
    error_code: str | None

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(job.status, job.attempt, job.updated_at, job.keep, job.error_code)


class JobStore:
    """Made by `open`. `now` is the clock; tests move it."""

    def __init__(self, database: Database, archive: Archive, now: Callable[[], datetime]) -> None:
        self.database = database
        self.archive = archive
        self._now = now
        self._queue = Queue(database)
        self._moving = asyncio.Lock()  # a job is not changed while it is between the hot database and the archive

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
        """`path` is the hot database, the archive lies beside it. Raises what `Database.open` raises."""
        database = await Database.open(path, readers=readers, migrations=migrations, busy_limit_s=busy_limit_s)
        return cls(database, Archive(path.parent / "archive"), now)

    async def close(self) -> None:
        async with self._moving:
            await self.database.close()

    async def add(
        self, job: Job, caps: Caps, *, also: Callable[[aiosqlite.Connection], Awaitable[None]] | None = None
    ) -> None:
        """Accept a pending job. It survives `kill -9` once this has returned. `also` runs in the same transaction
        (`Quota.spend_in`): what it raises refuses the job.

        Raises `QueueFull` with the seconds after which a place may be free, `AlreadyAccepted` for an id that is there,
        `IllegalTransition` for a job that is not pending."""
        if job.status is not JobStatus.PENDING:
            raise IllegalTransition(f"A job begins as pending, not as {job.status}.")
        row = to_row(job)

        async def work(writer: aiosqlite.Connection) -> None:
            await check_caps(writer.execute_fetchall, job.owner, job.scope, caps)
            await writer.execute_fetchall(QUERIES["add_job"], row)
            if also is not None:
                await also(writer)

        await self.database.write(work)
        self._queue.changed()

    async def check_caps(self, owner: str, scope: str | None, caps: Caps) -> None:
        """Raises `QueueFull` unless a job of `owner` in `scope` could be added now."""
        await check_caps(self.database.read, owner, scope, caps)

    async def get(self, job_id: str) -> Job | None:
        """The job, from the archives too. Raises `StoreDamaged` when that month's archive cannot be read."""
        row = await self.database.read_one(QUERIES["job"], {"id": job_id})
        if row is not None:
            return from_row(row)
        try:
            return await asyncio.to_thread(self.archive.get, job_id)
        except ValueError:  # not an id at all
            return None

    async def list_by_owner(self, owner: str, *, limit: int, active_only: bool = False) -> list[Job]:
        """The owner's jobs, newest first; archived ones come last."""
        query = QUERIES["active_jobs_of"] if active_only else QUERIES["jobs_of"]
        jobs = _decode_rows(await self.database.read(query, {"owner": owner, "limit": limit}))
        if not active_only and len(jobs) < limit:
            known = {job.id for job in jobs}  # a job may be in both for a moment
            try:
                older = await asyncio.to_thread(self.archive.of, owner, limit)
            except StoreDamaged as error:
                log.error("the archives cannot all be read: %s", error.detail)
                older = []
            jobs += [job for job in older if job.id not in known][: limit - len(jobs)]
        return jobs

    async def ids_by_owner(self, owner: str) -> list[str]:
        """Every job of an owner, archived ones too, for the deletion of everything they have."""
        rows = await self.database.read(QUERIES["ids_of"], {"owner": owner})
        archived = await asyncio.to_thread(self.archive.ids_of, owner)
        return list(dict.fromkeys([*archived, *(str(row["id"]) for row in rows)]))

    async def claim(self) -> Job | None:
        """The next job in fair order, now `processing` with attempt 1; None when nothing waits. Two callers, or two
        processes, never get the same one."""
        job = self._one(await self.database.run(QUERIES["claim"], self._params()))
        self._queue.changed()
        return job

    async def next_attempt(self, job_id: str, attempt: int) -> Job | None:
        """Give up attempt `attempt` and begin the next; None when another was faster or the job is over."""
        return self._one(await self.database.run(QUERIES["next_attempt"], self._params(job_id, attempt)))

    async def save_progress(self, reports: Sequence[ProgressUpdate]) -> set[str]:
        """Ids of the jobs where it was saved; the others' attempts are lost. A lower `progress` than before is not
        taken over."""
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
        """What was learned when a link was fetched. False when the attempt is lost."""
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
        """None when the attempt is lost: its result changes nothing. Raises `ValueError` for another job's result."""
        if result.job_id != job_id:
            raise ValueError(f"the result of {result.job_id} was offered for {job_id}")
        params = self._params(job_id, attempt, result=result.model_dump_json(), actual_duration=actual_duration)
        job = self._one(await self.database.run(QUERIES["complete"], params))
        self._queue.changed()  # their owner has one running less, so it may be their turn sooner
        return job

    async def fail(
        self, job_id: str, *, attempt: int | None, code: str, message: str, actual_duration: int | None = None
    ) -> Job | None:
        """End a job with a reason. `attempt=None`: whichever runs, or none yet. None when the attempt is lost or the
        job is over."""
        params = self._params(job_id, attempt, code=code, message=message, actual_duration=actual_duration)
        job = self._one(await self.database.run(QUERIES["fail"], params))
        self._queue.changed()
        return job

    async def processing(self) -> list[Job]:
        """What was being worked on, oldest first; at a start: what the last process left behind."""
        return _decode_rows(await self.database.read(QUERIES["processing_jobs"]))

    async def standing(self, job_id: str) -> QueuePosition | None:
        """The job's place in the order in which claims would come if nothing ended; None when it does not wait."""
        return await self._queue.standing(job_id)

    async def counts(self) -> dict[JobStatus, int]:
        """Jobs by status, archived ones not counted. Kept by triggers: the cost does not grow with the jobs."""
        return {JobStatus(row["status"]): int(row["jobs"]) for row in await self.database.read(QUERIES["counts"])}

    async def keep(self, job_id: str, keep: bool) -> Job | None:
        """Let the stems stay beyond their time, or not any longer. Archived jobs too."""
        async with self._moving:
            job = self._one(await self.database.run(QUERIES["keep"], {"id": job_id, "keep": int(keep)}))
            return job or await asyncio.to_thread(self.archive.set_keep, job_id, keep)

    async def delete(self, job_id: str) -> bool:
        """Forget the job, in the archive too. In the same transaction its files are noted in `deletions`: what a
        crash keeps from being removed now, the sweeper removes at the next start. False when there is no such job."""

        async def work(writer: aiosqlite.Connection) -> bool:
            gone = bool(list(await writer.execute_fetchall(QUERIES["delete_job"], {"id": job_id})))
            if gone or archived:
                await writer.execute_fetchall(QUERIES["note_deletion"], self._params(job_id))
            return gone or archived

        async with self._moving:
            # The archive first: a crash in between leaves the hot row, and the person can ask again.
            archived = await asyncio.to_thread(self.archive.delete, job_id)
            is_gone = await self.database.write(work)
            self._queue.changed()
            return is_gone

    async def deletions(self) -> list[str]:
        """Deleted jobs whose files may still be there (500 at most)."""
        return [str(row["job_id"]) for row in await self.database.read(QUERIES["deletions"])]

    async def forget_deletion(self, job_id: str) -> None:
        """The files are gone."""
        await self.database.run(QUERIES["forget_deletion"], {"id": job_id})

    async def forget_idle_owners(self) -> None:
        """Drop the turns of people who have not been here for a thousand claims."""
        await self.database.run(QUERIES["forget_idle_owners"])

    async def forget_owner(self, owner: str) -> None:
        """Drop the turns of somebody who has no job that waits or runs."""
        await self.database.run(QUERIES["forget_owner"], {"owner": owner})

    async def briefs(self, job_ids: Sequence[str]) -> dict[str, JobSummary]:
        """Of those that are not archived."""
        rows = await self.database.read(QUERIES["briefs"], {"ids": json.dumps(list(job_ids))})
        return {
            row["id"]: JobSummary(
                JobStatus(row["status"]),
                row["attempt"],
                from_us(row["updated_at"]),
                bool(row["keep"]),
                row["error_code"],
            )
            for row in rows
        }

    async def archive_finished(self, status: JobStatus, before: datetime, *, limit: int = ARCHIVE_BATCH) -> int:
        """Move up to `limit` jobs that ended with `status` before `before`; how many were moved. Safe to repeat after
        a crash at any point."""

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

    async def speed(self, model: str, quality: str, device: str) -> float | None:
        """Learned seconds of processing per second of audio."""
        row = await self.database.read_one(QUERIES["speed"], {"model": model, "quality": quality, "device": device})
        return None if row is None else float(row["s_per_audio_s"])

    async def learn_speed(self, model: str, quality: str, device: str, *, processing_s: float, audio_s: float) -> None:
        """Take a measurement into the moving average. One of nothing teaches nothing."""
        if processing_s <= 0 or audio_s <= 0:
            return
        params = {"model": model, "quality": quality, "device": device, "measured": processing_s / audio_s}
        await self.database.run(QUERIES["learn_speed"], params)

    def _params(self, job_id: str | None = None, attempt: int | None = None, **more: object) -> dict[str, Any]:
        return {"now": to_us(self._now()), "id": job_id, "attempt": attempt, **more}

    @staticmethod
    def _one(rows: Sequence[Any]) -> Job | None:
        return from_row(rows[0]) if rows else None


def _decode_rows(rows: Sequence[Any]) -> list[Job]:
    """One bad row does not hide the others."""
    jobs: list[Job] = []
    for row in rows:
        try:
            jobs.append(from_row(row))
        except StoreDamaged as error:
            log.error("job %s cannot be read: %s", row["id"], error.detail)
    return jobs


async def retry_statuses(writer: aiosqlite.Connection, owner: str, root_id: str) -> list[JobStatus]:
    """Return the statuses of the owner's retries of a job that have not failed, read inside `JobStore.add`."""
    rows = await writer.execute_fetchall(QUERIES["retry_statuses"], {"owner": owner, "root": root_id})
    return [JobStatus(row["status"]) for row in rows]
