"""All attempts of one job: fetch what is linked, run it on a worker, publish, try again or end with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from engine.database.errors import StoreFailed
from engine.database.job_store import JobStore
from engine.dispatch.progress import ProgressTracker
from engine.errors import (
    AttemptError,
    AttemptTimedOut,
    Cancelled,
    InternalError,
    NodeLost,
    OutOfMemory,
    StemifyError,
    WorkerDied,
    with_message,
)
from engine.jobs.estimates import (
    estimate_s,
    first_guess,
    is_default_plan,
    is_long_enough_to_learn,
    plan_cost,
    timeout_s,
)
from engine.jobs.job import InputType, Job, JobStatus, Stage
from engine.pool.pool import WorkerPool
from engine.sources.fetch import FetchLink
from engine.storage.local import Storage
from engine.worker.protocol import AttemptSpec, Done

log = logging.getLogger(__name__)

_SAVE_INTERVAL_S = 3.0
_RETRY_PAUSES_S = (0.5, 2.0, 5.0)
_STORE_PAUSES_S = (0.5, 2.0, 5.0, 10.0, 20.0)
_FETCHES_AT_ONCE = 2


@dataclass(frozen=True)
class AttemptLimits:
    """Times in seconds, lengths of audio in seconds."""

    max_attempts: int
    short_track_s: float
    short_timeout_s: float
    long_timeout_s: float
    max_duration_s: float
    neighbours: int = 3  # attempts that share one worker's device


class JobRunner:
    def __init__(
        self,
        store: JobStore,
        storage: Storage,
        pool: WorkerPool,
        fetch_link: FetchLink,
        limits: AttemptLimits,
        live: ProgressTracker,
    ) -> None:
        self._store = store
        self._storage = storage
        self._pool = pool
        self._fetch_link = fetch_link
        self._limits = limits
        self._live = live
        self._fetches = asyncio.Semaphore(_FETCHES_AT_ONCE)
        self.on_room: Callable[[], None] = lambda: None
        """Called when a job has stopped to need a worker's slot, or a device of its own."""
        self.fetching: set[str] = set()
        self.waiting_alone: set[str] = set()
        self.cancelled: set[str] = set()
        """Jobs whose task was cancelled because a person asked for it; any other cancelling is a shutdown."""
        self.handed_back: dict[str, int] = {}
        """Job → attempt that a shutdown interrupted, and that nobody works on any more."""
        self.draining = False
        self.audio_seconds = 0.0
        self.processing_seconds = 0.0

    async def run(self, job: Job, *, suspect: bool) -> None:
        """All attempts of a claimed job, to its end. `suspect`: it may take its worker down, so it runs alone.
        Raises `StoreFailed` when the store cannot be told how it went; then somebody must look again."""
        try:
            while True:
                log.info("attempt started", extra={"job": job.id, "attempt": job.attempt})
                try:
                    job = await self._with_input(job)
                    done = await self._attempt(job, alone=suspect)
                    await asyncio.shield(self._complete(job, done))
                    return
                except StoreFailed:
                    raise
                except StemifyError as error:
                    suspect = suspect or (
                        isinstance(error, WorkerDied | OutOfMemory) and not isinstance(error, NodeLost)
                    )
                    pause_s = _RETRY_PAUSES_S[min(job.attempt, len(_RETRY_PAUSES_S)) - 1]
                    deciding = asyncio.create_task(self._handle_failure(job, error))
                    try:
                        following = await asyncio.shield(deciding)
                    except asyncio.CancelledError:  # what is handed back must be the attempt that is in the store
                        job = await deciding or job
                        raise
                    if following is None:
                        return
                    job = following
                    await asyncio.sleep(pause_s)
        except asyncio.CancelledError:
            if job.id in self.cancelled:
                await asyncio.shield(self.end(job, Cancelled()))
            else:
                await asyncio.shield(self.clear_scratch(job.id))
                self.handed_back[job.id] = job.attempt
                log.info("attempt handed back", extra={"job": job.id, "attempt": job.attempt})
            raise
        except StoreFailed:
            raise
        except Exception as error:
            log.exception("job %s attempt %s", job.id, job.attempt)
            await self.end(job, InternalError(detail=repr(error)))

    async def end(self, job: Job, error: StemifyError) -> None:
        """Fail the job, unless it has ended otherwise in the meantime. A cancelled one fails in whatever attempt."""
        cancelled = isinstance(error, Cancelled)
        failed = await self._store.fail(
            job.id,
            attempt=None if cancelled else job.attempt,
            code=error.code,
            message=error.message,
            actual_duration=round(self._live.elapsed_s(job.id)),
        )
        if failed is not None:
            log.info("job failed", extra={"job": job.id, "attempt": failed.attempt, "code": error.code})
            await self.clear(job.id, keep_input=not cancelled)
        else:
            await self._clear_if_over(job.id)
        self._live.notify(job.id)

    async def clear(self, job_id: str, *, keep_attempt: int | None = None, keep_input: bool = False) -> None:
        """Remove what the job leaves behind besides its result: scratch, lost attempts, the input."""
        try:
            await self._storage.tidy_job(job_id, keep_attempt=keep_attempt, keep_input=keep_input)
        except StemifyError as error:  # the sweeper comes by later
            log.warning("job %s: could not be tidied: %s", job_id, error.detail or error.message)

    async def clear_scratch(self, job_id: str) -> None:
        try:
            await asyncio.to_thread(self._storage.clear_scratch, job_id)
        except StemifyError as error:
            log.warning("job %s: its scratch could not be removed: %s", job_id, error.detail or error.message)

    async def clear_result(self, job: Job) -> None:
        """What an interrupted attempt may have published already, before the same attempt is made again."""
        try:
            await self._storage.delete_tree(f"jobs/{job.id}/a{job.attempt}")
        except StemifyError as error:
            log.warning("job %s: what it published could not be removed: %s", job.id, error.detail or error.message)

    async def _clear_if_over(self, job_id: str) -> None:
        """After a lost attempt: nothing of it may stay beside what the job ended with."""
        job = await self._store.get(job_id)
        if job is None or job.is_over:
            completed = job is not None and job.status is JobStatus.COMPLETED
            kept = job.attempt if job is not None and completed else None
            await self.clear(
                job_id, keep_attempt=kept, keep_input=job is not None and not job.was_cancelled and not completed
            )

    async def _has_input(self, job: Job) -> bool:
        return await self._storage.size(f"jobs/{job.id}/input") is not None

    async def _with_input(self, job: Job) -> Job:
        if job.input_type is not InputType.YOUTUBE_URL or await self._has_input(job):
            return job
        self.fetching.add(job.id)
        self.on_room()
        try:
            self._live.report(job, Stage.FETCHING, 0.0)
            async with self._fetches:
                found = await self._fetch_link(job, lambda fraction: self._live.report(job, Stage.FETCHING, fraction))
        finally:
            self.fetching.discard(job.id)
        await self._store.set_input(
            job.id,
            job.attempt,
            title=found.title,
            artist=found.artist,
            input_size=found.size_bytes,
            input_duration=found.duration_s,
        )
        fetched = await self._store.get(job.id)
        if fetched is None:
            raise InternalError(detail="the job vanished while its link was fetched")
        return fetched

    async def _attempt(self, job: Job, *, alone: bool) -> Done:
        audio_s = job.input_duration or self._limits.max_duration_s
        deadline_s = await self._deadline_s(job, audio_s, self._pool.device)
        deadline_on_cpu_s = await self._deadline_s(job, audio_s, "cpu")
        if alone:
            self.waiting_alone.add(job.id)

        def report(stage: Stage, fraction: float) -> None:
            if job.id in self.waiting_alone:  # it has found its worker: the others may go on elsewhere
                self.waiting_alone.discard(job.id)
                self.on_room()
            self._live.report(job, stage, fraction)

        def on_cpu() -> float:
            self._live.report_cpu_fallback(job)
            return deadline_on_cpu_s

        try:
            return await self._pool.run(
                self._spec(job),
                alone=alone,
                timeout_s=deadline_s,
                slowness=deadline_s / self._limits.short_timeout_s,
                on_progress=report,
                on_cpu=on_cpu,
            )
        except AttemptTimedOut:
            # Only completions teach the speed, so a device that is too slow would never be given more time.
            live = self._live.get(job.id)
            if live is not None and live.reached > 0:
                await self._learn(job, deadline_s * 100 / live.reached, audio_s)
            raise
        finally:
            self.waiting_alone.discard(job.id)

    async def _deadline_s(self, job: Job, audio_s: float, device: str) -> float:
        learned = await self._store.speed(job.model, job.options.quality, device)
        speed = learned or first_guess(job.model, job.options.quality, device)
        return timeout_s(
            audio_s,
            # Neighbours on the device may each slow it down by as much as it costs alone.
            estimate_s(speed * plan_cost(job.options), audio_s) * self._limits.neighbours,
            short_track_s=self._limits.short_track_s,
            short_s=self._limits.short_timeout_s,
            long_s=self._limits.long_timeout_s,
        )

    def _spec(self, job: Job) -> AttemptSpec:
        return AttemptSpec(
            job_id=job.id,
            attempt=job.attempt,
            input_key=f"jobs/{job.id}/input",
            scratch_key=f"scratch/{job.id}-a{job.attempt}",
            output_key=f"jobs/{job.id}/a{job.attempt}",
            options=job.options,
            title=job.title,
            artist=job.artist,
            seed=UUID(job.id).int & 0x7FFFFFFF,
            max_duration_s=self._limits.max_duration_s,
        )

    async def save_progress(self) -> None:
        """Save now and then how far all jobs are, until cancelled."""
        while True:
            await asyncio.sleep(_SAVE_INTERVAL_S)
            if reports := self._live.take_unsaved():
                with contextlib.suppress(StemifyError):
                    await self._store.save_progress(reports)

    async def _complete(self, job: Job, done: Done) -> None:
        elapsed_s = self._live.elapsed_s(job.id)
        completed = await self._store_with_retry(
            job, lambda: self._store.complete(job.id, job.attempt, done.result, round(elapsed_s))
        )
        if completed is None:
            log.warning("job %s: attempt %s was lost before it was done", job.id, job.attempt)
            await self._clear_if_over(job.id)
            return
        log.info("job completed", extra={"job": job.id, "attempt": job.attempt, "elapsed_s": round(elapsed_s, 1)})
        self.audio_seconds += done.input_duration_s
        self.processing_seconds += done.result.processing_time
        if is_long_enough_to_learn(done.input_duration_s):
            with contextlib.suppress(StemifyError):
                await self._learn(job, done.separating_s, done.input_duration_s)
        await self.clear(job.id, keep_attempt=job.attempt)

    async def _store_with_retry(self, job: Job, write: Callable[[], Awaitable[Job | None]]) -> Job | None:
        """Finished stems are worth some patience with a store that is full or busy."""
        for pause_s in _STORE_PAUSES_S:
            try:
                return await write()
            except StoreFailed as error:
                log.error(
                    "job %s attempt %s is done, but cannot be stored yet: %s",
                    job.id,
                    job.attempt,
                    error.detail or error.message,
                )
                await asyncio.sleep(pause_s)
        return await write()

    async def _learn(self, job: Job, processing_s: float, audio_s: float) -> None:
        """Only jobs of the usual plan on the usual device teach: karaoke, odd segments, and a CPU that stands in for
        a GPU cost something else."""
        live = self._live.get(job.id)
        if is_default_plan(job.options) and not (live is not None and live.on_cpu):
            await self._store.learn_speed(
                job.model, job.options.quality, self._pool.device, processing_s=processing_s, audio_s=audio_s
            )

    async def _handle_failure(self, job: Job, error: StemifyError) -> Job | None:
        """After a failed attempt: the job's next attempt, or None when it has ended."""
        await self.clear_scratch(job.id)
        log.warning("job %s attempt %s: %s %s", job.id, job.attempt, error.code, error.detail or "")
        if error.transient and job.attempt < self._limits.max_attempts:
            following = await self._store.next_attempt(job.id, job.attempt)
            if following is None:
                await self._clear_if_over(job.id)
            elif self.draining:
                self.handed_back[job.id] = following.attempt
                return None
            return following
        if error.transient and job.attempt > 1:
            kind = type(error) if isinstance(error, AttemptError) else AttemptError
            error = with_message(kind, f"{error.message} It was tried {job.attempt} times.")
        await self.end(job, error)
        return None
