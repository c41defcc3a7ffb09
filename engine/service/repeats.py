"""Finds the result of an earlier job that did the same, and copies its files to a new job.

The copies are hard links on a disk and server-side copies in object storage, so each job is deleted and expires
independently. They are made before the new job is stored: after a crash in between, the sweeper deletes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from engine.database.errors import StoreDamaged
from engine.database.job_store import JobStore
from engine.database.usage import forget_input
from engine.dispatch.cleanup import JobCleanup
from engine.errors import StemifyError
from engine.jobs.job import InputType, Job
from engine.jobs.results import JobResult
from engine.pool.pool import WorkerPool
from engine.storage.storage import Storage
from engine.text import format_date

log = logging.getLogger(__name__)


class Repeats:
    def __init__(
        self,
        store: JobStore,
        storage: Storage,
        pool: WorkerPool,
        cleanup: JobCleanup,
        *,
        lifetime: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        """`lifetime`: of a result that is not kept."""
        self._store = store
        self._storage = storage
        self._pool = pool
        self._cleanup = cleanup
        self._lifetime = lifetime
        self._now = now

    async def find(self, job: Job, audio: str) -> tuple[Job, JobResult] | None:
        """Return the job with the facts and the copied result of an earlier one that did the same.

        `audio` is the hash of the decoded samples, or the address of the video. Only jobs of the same owner, or of
        the same place, are considered.
        """
        version = self._pool.model_version(job.model)
        if version is None:
            return None
        for job_id in await self._store.results.equal_to(job, audio, version):
            try:
                earlier = await self._store.get(job_id)
            except StoreDamaged as error:  # its month of the archive; the song can still be separated
                log.error("could not read an earlier job", extra={"job": job_id, "reason": error.detail})
                continue
            if earlier is None or earlier.result is None:
                continue
            if not earlier.keep and earlier.updated_at + self._lifetime <= self._now():
                continue
            if (copied := await self._copy(earlier, earlier.result, job)) is not None:
                return copied
        return None

    async def _copy(self, earlier: Job, result: JobResult, job: Job) -> tuple[Job, JobResult] | None:
        """Copy the files of a result, or return None if one of them is gone."""
        folder = f"jobs/{job.id}/a1"
        moved, keys = result.of_job(job.id, folder)
        await self._store.results.announce(job.id)
        try:
            for old, new in keys.items():
                if not await self._storage.copy(old, new):
                    await self._storage.delete_tree(folder)
                    return None
            if job.input_type is InputType.YOUTUBE_URL:
                await self._storage.copy(f"jobs/{earlier.id}/input", f"jobs/{job.id}/input")
        except StemifyError as error:
            log.warning("could not copy a result", extra={"job": job.id, "reason": error.detail or error.message})
            await self._storage.delete_tree(folder)
            return None
        separated_at = result.separated_at or earlier.updated_at
        note = f"Separated on {format_date(separated_at)}: the same song with the same options."
        trust = moved.trust
        if trust is not None and note not in trust.notes:
            trust = trust.model_copy(update={"notes": (note, *trust.notes)})
        facts = ("title", "artist", "input_duration", *(["input_size"] if job.input_size == 0 else []))
        kept = {name: getattr(earlier, name) for name in facts}
        return job.model_copy(update=kept), moved.model_copy(update={"separated_at": separated_at, "trust": trust})

    async def clear(self, job: Job) -> None:
        """Delete what a completed job does not keep of its input."""
        await self._cleanup.clear_completed(job.id, job.attempt)
        try:
            if await self._storage.size(f"jobs/{job.id}/input") is None:
                await forget_input(self._store.database, job.id)
        except StemifyError as error:
            log.warning("could not count a song", extra={"job": job.id, "reason": error.detail or error.message})
