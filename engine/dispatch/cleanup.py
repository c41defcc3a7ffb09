"""Removal of what attempts leave behind.

Nothing here raises `StemifyError` for a file that cannot be removed: the sweeper tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from engine.database.job_store import JobStore
from engine.database.usage import forget_input
from engine.errors import StemifyError
from engine.jobs.job import Job, JobStatus
from engine.storage.storage import Storage

log = logging.getLogger(__name__)


class JobCleanup:
    def __init__(self, store: JobStore, storage: Storage, *, keep_inputs: bool) -> None:
        """`keep_inputs`: completed jobs keep their song, until the sweeper deletes it."""
        self._store = store
        self._storage = storage
        self._keep_inputs = keep_inputs

    async def clear_job(self, job_id: str, *, keep_attempt: int | None = None, keep_input: bool = False) -> None:
        """Delete scratch files, the input and the output of all attempts but `keep_attempt`."""
        with _logged(job_id):
            await self._storage.tidy_job(job_id, keep_attempt=keep_attempt, keep_input=keep_input)

    async def clear_completed(self, job_id: str, attempt: int) -> None:
        """Delete all files of a completed job but its result and, if songs are kept, its input."""
        await self.clear_job(job_id, keep_attempt=attempt, keep_input=self._keep_inputs)
        if not self._keep_inputs:
            with _logged(job_id):
                await forget_input(self._store.database, job_id)

    async def clear_scratch(self, job_id: str) -> None:
        with _logged(job_id):
            await asyncio.to_thread(self._storage.clear_scratch, job_id)

    async def clear_output(self, job: Job) -> None:
        """Delete what the job's current attempt has published, before the same attempt is repeated."""
        with _logged(job.id):
            await self._storage.delete_tree(f"jobs/{job.id}/a{job.attempt}")

    async def clear_lost_attempt(self, job_id: str) -> None:
        """Delete the files of an attempt that came too late, if its job has ended."""
        job = await self._store.get(job_id)
        if job is None:
            await self.clear_job(job_id)
        elif job.status is JobStatus.COMPLETED:
            await self.clear_completed(job_id, job.attempt)
        elif job.is_over:
            await self.clear_job(job_id, keep_input=not job.was_cancelled)


@contextlib.contextmanager
def _logged(job_id: str) -> Iterator[None]:
    try:
        yield
    except StemifyError as error:
        log.warning("could not remove files", extra={"job": job_id, "reason": error.detail or error.message})
