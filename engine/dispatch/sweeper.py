"""Tidies up: rows that are over move to the archive, stems whose time has come go, and so does what a crash left.

Only files of our own job layout are touched (`Storage` refuses anything else), and only when the store says that the
job they belong to no longer needs them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

from config.settings import Retention
from engine.database.job_store import ARCHIVE_BATCH, JobStore, JobSummary
from engine.database.usage import forget_files
from engine.errors import StemifyError
from engine.jobs.entity import id_time
from engine.jobs.job import JobStatus
from engine.storage.local import Storage

log = logging.getLogger(__name__)

_LATE_BY = timedelta(hours=1)  # so long after a job's end a worker that was cut off may still write of a lost attempt
_UNKNOWN_FOR = timedelta(days=1)  # a folder without a job may be an upload that is just arriving


@dataclass
class SweepResult:
    """What one sweep did."""

    archived: int = 0  # rows
    results_removed: int = 0  # jobs whose time had come
    leftovers_removed: int = 0  # folders of deleted or unknown jobs, stale scratch


class Sweeper:
    """`sweep` once, at a start and in tests; `run` for ever."""

    def __init__(self, store: JobStore, storage: Storage, now: Callable[[], datetime], settings: Retention) -> None:
        self._store = store
        self._storage = storage
        self._now = now
        self._settings = settings
        self._tidied: set[str] = set()  # completed jobs where nothing is left but the result
        self._archived: set[str] = set()  # jobs without a row that have a result

    async def run(self) -> None:
        """Sweep now and then, until cancelled. What goes wrong is logged and tried again the next time."""
        while True:
            try:
                swept = await self.sweep()
                log.info(
                    "swept: %s rows archived, %s results and %s leftovers removed",
                    swept.archived,
                    swept.results_removed,
                    swept.leftovers_removed,
                )
            except StemifyError as error:
                log.error("the sweep failed: %s %s", error.code, error.detail or error.message)
            except Exception:
                log.exception("the sweep failed")
            await asyncio.sleep(self._settings.sweep_interval_s)

    async def sweep(self) -> SweepResult:
        """Do all that is due. May be broken off and repeated at any point."""
        swept = SweepResult()
        await self._finish_deletions(swept)
        await self._clear_scratch(swept)
        await self._look_through_jobs(swept)
        await self._archive(JobStatus.COMPLETED, self._settings.completed_days, swept)
        await self._archive(JobStatus.FAILED, self._settings.failed_days, swept)
        await self._store.forget_idle_owners()
        return swept

    async def _finish_deletions(self, swept: SweepResult) -> None:
        """Files of jobs that were deleted, where a crash or a full disk came in between."""
        for job_id in await self._store.deletions():
            try:
                await self._storage.delete_job(job_id)
            except StemifyError as error:
                log.warning("job %s: its files could not be removed: %s", job_id, error.detail)
                continue
            await self._store.forget_deletion(job_id)
            swept.leftovers_removed += 1

    async def _clear_scratch(self, swept: SweepResult) -> None:
        # Listed first, asked afterwards: an attempt is in the store before its scratch is on disk.
        found = await asyncio.to_thread(self._storage.scratch_on_disk)
        if not found:
            return
        running = {f"{job.id}-a{job.attempt}" for job in await self._store.processing()}
        for name, job_id in found:
            if name not in running:
                await self._remove(job_id, f"scratch/{name}")
                swept.leftovers_removed += 1

    async def _look_through_jobs(self, swept: SweepResult) -> None:
        on_disk = await asyncio.to_thread(self._storage.jobs_on_disk)
        self._tidied.intersection_update(on_disk)
        self._archived.intersection_update(on_disk)
        waiting = iter(on_disk)
        while batch := list(islice(waiting, 500)):
            briefs = await self._store.briefs(batch)
            for job_id in batch:
                try:
                    await self._look_at(job_id, briefs.get(job_id), swept)
                except StemifyError as error:
                    log.warning("job %s could not be swept: %s %s", job_id, error.code, error.detail)

    async def _look_at(self, job_id: str, brief: JobSummary | None, swept: SweepResult) -> None:
        now = self._now()
        if brief is None:
            # Asked once: in object storage each look is a request, and most jobs are archived.
            if job_id not in self._archived and await asyncio.to_thread(self._storage.has_result, job_id):
                self._archived.add(job_id)
            patience = timedelta(days=self._settings.stems_days) if job_id in self._archived else _UNKNOWN_FOR
            made_at = _made_at(job_id)
            if made_at is not None and made_at + patience > now:
                return  # archived and not yet due, or too young to be judged
            job = await self._store.get(job_id)
            if job is None:
                if made_at is None:
                    return  # our own ids tell their time: not one of ours
                await self._remove(job_id, f"jobs/{job_id}")
                swept.leftovers_removed += 1
                return
            brief = JobSummary.of(job)
        if brief.status is JobStatus.COMPLETED:
            if not brief.keep and brief.updated_at + timedelta(days=self._settings.stems_days) <= now:
                await self._remove(job_id, f"jobs/{job_id}")
                self._tidied.discard(job_id)
                swept.results_removed += 1
            elif job_id not in self._tidied:
                await self._storage.tidy_job(job_id, keep_attempt=brief.attempt, keep_input=False)
                if brief.updated_at + _LATE_BY <= now:
                    self._tidied.add(job_id)
        elif brief.status is JobStatus.FAILED:
            retry_until = brief.updated_at + timedelta(days=self._settings.failed_days)
            can_retry = brief.error_code != "cancelled" and now < retry_until
            if not can_retry:
                await forget_files(self._store.database, job_id)
            await self._storage.tidy_job(job_id, keep_attempt=None, keep_input=can_retry)

    async def _remove(self, job_id: str, place: str) -> None:
        log.info("job %s: removing %s", job_id, place)
        if place.startswith("jobs/"):
            await forget_files(self._store.database, job_id)
        await self._storage.delete_tree(place)

    async def _archive(self, status: JobStatus, days: int, swept: SweepResult) -> None:
        before = self._now() - timedelta(days=days)
        while moved := await self._store.archive_finished(status, before):
            swept.archived += moved
            if moved < ARCHIVE_BATCH:
                return
            await asyncio.sleep(0.05)  # let the writers through between the batches


def _made_at(job_id: str) -> datetime | None:
    """When the job was made; None for an id that does not say."""
    if UUID(job_id).version != 7:
        return None
    try:
        return id_time(job_id)
    except (ValueError, OverflowError, OSError):  # a time that no calendar has
        return None
