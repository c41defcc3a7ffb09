"""Stores an admitted job: completed, if the same was done before, or in the queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

import aiosqlite

from engine.database.database import Step
from engine.database.job_store import JobStore
from engine.database.queue_limits import QueueLimits
from engine.database.quota import Quota
from engine.dispatch.speed import expected_s
from engine.errors import ModelUnavailable, StorageFailed
from engine.jobs.job import Job
from engine.jobs.options import StemSeparationOptions
from engine.pool.pool import WorkerPool
from engine.service.repeats import Repeats
from engine.storage.storage import Storage

log = logging.getLogger(__name__)
T = TypeVar("T")

_GUESSED_LINK_S = 240.0  # assumed length of a song that has not been downloaded


class Acceptance:
    def __init__(
        self,
        store: JobStore,
        storage: Storage,
        pool: WorkerPool,
        queue_limits: QueueLimits,
        quota: Quota,
        repeats: Repeats | None,
    ) -> None:
        """`repeats`: None separates every song."""
        self._store = store
        self._storage = storage
        self._pool = pool
        self._queue_limits = queue_limits
        self._quota = quota
        self._repeats = repeats

    def check_models(self, options: StemSeparationOptions) -> None:
        """Raise `ModelUnavailable` if no worker can use a model of a job."""
        for name in options.models:
            state = self._pool.models.get(name)
            if state is not None and state.state == "unavailable":
                raise ModelUnavailable(f"The model {name} cannot be used here: {state.reason}")

    async def estimated_s(self, options: StemSeparationOptions, duration_s: float | None) -> int:
        return await expected_s(self._store, options, duration_s or _GUESSED_LINK_S, self._pool.device)

    async def repeat(self, job: Job, audio: str | None, *, also: Step | None = None) -> Job | None:
        """Store the job as completed if `audio` was separated before with its options; return None if it was not.

        `also` runs in the same transaction. Raises `QuotaExceeded` after too many repeats in an hour.
        """
        if self._repeats is None or audio is None:
            return None
        try:
            found = await self._repeats.find(job, audio)
        except BaseException:
            await self.discard(job.id)
            raise
        if found is None:
            return None
        counting = self._quota.repeat_in(job.owner)

        async def steps(writer: aiosqlite.Connection) -> None:
            if also is not None:
                await also(writer)
            await counting(writer)

        completed = await self._store_job(job.id, self._store.results.add(*found, also=steps))
        log.info("job completed", extra={"job": job.id, "attempt": completed.attempt, "elapsed_s": 0})
        await self._repeats.clear(completed)
        return completed

    async def enqueue(self, job: Job, *, also: Step) -> Job:
        """Store the job as pending with queue limits and `also` in one transaction. Raises what they raise."""
        await self._store_job(job.id, self._store.add(job, self._queue_limits, also=also))
        return job

    async def _store_job(self, job_id: str, write: Awaitable[T]) -> T:
        """Await the write that stores a job; delete the job's files if it fails.

        A client that disconnects during the write leaves a valid job.
        """
        writing = asyncio.ensure_future(write)
        try:
            return await asyncio.shield(writing)
        except BaseException:
            await asyncio.wait([writing])
            if writing.cancelled() or writing.exception() is not None:
                await self.discard(job_id)
            raise

    async def discard(self, job_id: str) -> None:
        """Delete the files of a refused request."""
        try:
            await asyncio.shield(self._storage.delete_job(job_id))
        except StorageFailed as error:  # report the original error; the sweeper cleans up
            log.warning(
                "could not delete a refused request", extra={"job": job_id, "reason": error.detail or error.message}
            )
