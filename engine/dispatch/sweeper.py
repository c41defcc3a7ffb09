"""Moves finished jobs to the archive and deletes expired stems and leftovers of crashes.

Deletes only files in the job layout (`Storage` refuses others), and only if the database says that their job no longer
needs them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

from config.settings import Retention
from engine.database.job_store import ARCHIVE_BATCH, JobStore
from engine.database.rows import JobSummary
from engine.database.usage import forget_files, forget_input
from engine.errors import StemifyError
from engine.jobs.entity import id_time
from engine.jobs.job import JobStatus
from engine.storage.storage import Storage

log = logging.getLogger(__name__)

_LATE_BY = timedelta(hours=1)  # a disconnected worker may write files of a lost attempt this long after the job's end
_UNKNOWN_FOR = timedelta(days=1)  # a folder without a job may be an upload in progress


@dataclass
class SweepResult:
    """Counts of one sweep."""

    archived: int = 0  # rows
    results_removed: int = 0  # of expired jobs
    leftovers_removed: int = 0  # folders of deleted or unknown jobs, stale scratch


class Sweeper:
    """Sweeps once (`sweep`) or periodically (`run`)."""

    def __init__(self, store: JobStore, storage: Storage, now: Callable[[], datetime], settings: Retention) -> None:
        self._store = store
        self._storage = storage
        self._now = now
        self._settings = settings
        self._clean: set[str] = set()  # completed jobs with no files but the result
        self._archived_results: set[str] = set()  # archived jobs with a result

    async def run(self) -> None:
        """Sweep periodically until cancelled. Errors are logged; the next sweep tries again."""
        while True:
            try:
                swept = await self.sweep()
                log.info("swept", extra=asdict(swept))
            except StemifyError as error:
                log.error("sweep failed", extra={"code": error.code, "reason": error.detail or error.message})
            except Exception:
                log.exception("sweep failed")
            await asyncio.sleep(self._settings.sweep_interval_s)

    async def sweep(self) -> SweepResult:
        """Do everything that is due. Can be interrupted and repeated at any point."""
        swept = SweepResult()
        await self._finish_deletions(swept)
        await self._clear_scratch(swept)
        await self._sweep_jobs(swept)
        await self._archive(JobStatus.COMPLETED, self._settings.completed_days, swept)
        await self._archive(JobStatus.FAILED, self._settings.failed_days, swept)
        await self._store.forget_idle_owners()
        return swept

    async def _finish_deletions(self, swept: SweepResult) -> None:
        """Delete the files of deleted jobs that a crash or a full disk left."""
        for job_id in await self._store.deletions():
            try:
                await self._storage.delete_job(job_id)
            except StemifyError as error:
                log.warning("could not remove files", extra={"job": job_id, "reason": error.detail})
                continue
            await self._store.forget_deletion(job_id)
            swept.leftovers_removed += 1

    async def _clear_scratch(self, swept: SweepResult) -> None:
        # List the folders first: an attempt is in the database before its scratch folder exists.
        found = await asyncio.to_thread(self._storage.scratch_on_disk)
        if not found:
            return
        running = {f"{job.id}-a{job.attempt}" for job in await self._store.processing()}
        for name, job_id in found:
            if name not in running:
                await self._remove(job_id, f"scratch/{name}")
                swept.leftovers_removed += 1

    async def _sweep_jobs(self, swept: SweepResult) -> None:
        on_disk = await asyncio.to_thread(self._storage.jobs_on_disk)
        self._clean.intersection_update(on_disk)
        self._archived_results.intersection_update(on_disk)
        waiting = iter(on_disk)
        while batch := list(islice(waiting, 500)):
            summaries = await self._store.summaries(batch)
            for job_id in batch:
                try:
                    await self._sweep_job(job_id, summaries.get(job_id), swept)
                except StemifyError as error:
                    log.warning(
                        "could not sweep job", extra={"job": job_id, "code": error.code, "reason": error.detail}
                    )

    async def _sweep_job(self, job_id: str, summary: JobSummary | None, swept: SweepResult) -> None:
        now = self._now()
        if summary is None:
            # Checked once: in object storage each check is a request, and most jobs are archived.
            if job_id not in self._archived_results and await asyncio.to_thread(self._storage.has_result, job_id):
                self._archived_results.add(job_id)
            patience = timedelta(days=self._settings.stems_days) if job_id in self._archived_results else _UNKNOWN_FOR
            created_at = _created_at(job_id)
            if created_at is not None and created_at + patience > now:
                return  # archived and not yet due, or too new
            job = await self._store.get(job_id)
            if job is None:
                if created_at is None:
                    return  # not an id of ours: those contain a time
                await self._remove(job_id, f"jobs/{job_id}")
                swept.leftovers_removed += 1
                return
            summary = JobSummary.of(job)
        if summary.status is JobStatus.COMPLETED:
            if not summary.keep and summary.updated_at + timedelta(days=self._settings.stems_days) <= now:
                await self._remove(job_id, f"jobs/{job_id}")
                self._clean.discard(job_id)
                swept.results_removed += 1
            elif job_id not in self._clean:
                # Archived jobs are not read again, so songs are deleted before.
                days = min(self._settings.input_days, self._settings.completed_days)
                keep_input = now < summary.updated_at + timedelta(days=days)
                if not keep_input:
                    await forget_input(self._store.database, job_id)
                await self._storage.tidy_job(job_id, keep_attempt=summary.attempt, keep_input=keep_input)
                if not keep_input and summary.updated_at + _LATE_BY <= now:
                    self._clean.add(job_id)
        elif summary.status is JobStatus.FAILED:
            retry_until = summary.updated_at + timedelta(days=self._settings.failed_days)
            can_retry = summary.error_code != "cancelled" and now < retry_until
            if not can_retry:
                await forget_files(self._store.database, job_id)
            await self._storage.tidy_job(job_id, keep_attempt=None, keep_input=can_retry)

    async def _remove(self, job_id: str, folder: str) -> None:
        log.info("removing files", extra={"job": job_id, "folder": folder})
        if folder.startswith("jobs/"):
            await forget_files(self._store.database, job_id)
        await self._storage.delete_tree(folder)

    async def _archive(self, status: JobStatus, days: int, swept: SweepResult) -> None:
        before = self._now() - timedelta(days=days)
        while moved := await self._store.archive_finished(status, before):
            swept.archived += moved
            if moved < ARCHIVE_BATCH:
                return
            await asyncio.sleep(0.05)  # let other writers through


def _created_at(job_id: str) -> datetime | None:
    """Return when the job was created, or None if the id does not contain a time."""
    if UUID(job_id).version != 7:
        return None
    try:
        return id_time(job_id)
    except (ValueError, OverflowError, OSError):  # out of range
        return None
