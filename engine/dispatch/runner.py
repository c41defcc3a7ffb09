"""Runs claimed jobs: fetches linked audio, runs attempts on workers, stores the outcome."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from config.settings import Workers
from engine.database.database import Step
from engine.database.errors import StoreFailed
from engine.database.job_store import JobStore
from engine.database.quota import Quota
from engine.dispatch.cleanup import JobCleanup
from engine.dispatch.progress import ProgressTracker
from engine.dispatch.retry import Retry, retry_decision
from engine.dispatch.speed import DeviceSpeed
from engine.errors import AttemptTimedOut, Cancelled, InternalError, StemifyError
from engine.jobs.estimates import is_long_enough_to_learn
from engine.jobs.job import InputType, Job, Stage
from engine.pool.pool import WorkerPool
from engine.sources.fetch import FetchLink
from engine.storage.storage import Storage
from engine.worker.protocol import AttemptSpec, Done

log = logging.getLogger(__name__)

_STORE_PAUSES_S = (0.5, 2.0, 5.0, 10.0, 20.0)
_MAX_DOWNLOADS = 2
_MAX_FETCHING = 32  # jobs that download or wait for it; they do not occupy a worker
_SUSPECT_ATTEMPT = 3  # interrupted twice: the job itself may have caused it

OnDone = Callable[[Job, BaseException | None], None]


class JobRunner:
    """Runs each job in a separate task.

    `on_capacity` is called when a job no longer needs a worker slot or a whole device.
    """

    def __init__(
        self,
        store: JobStore,
        storage: Storage,
        pool: WorkerPool,
        fetch_link: FetchLink,
        workers: Workers,
        max_duration_s: float,
        progress: ProgressTracker,
        quota: Quota,
        *,
        keep_inputs: bool = True,
    ) -> None:
        self._store = store
        self._quota = quota
        self._storage = storage
        self._pool = pool
        self._fetch_link = fetch_link
        self._max_attempts = workers.max_attempts
        self._short_timeout_s = workers.short_timeout_s
        self._max_duration_s = max_duration_s
        self._progress = progress
        self._speed = DeviceSpeed(store, workers)
        self.cleanup = JobCleanup(store, storage, keep_inputs=keep_inputs)
        self.on_capacity: Callable[[], None] = lambda: None
        self._downloads = asyncio.Semaphore(_MAX_DOWNLOADS)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._fetching: set[str] = set()
        self._waiting_alone: set[str] = set()
        self._cancelled: set[str] = set()  # by a user; other tasks are cancelled by a shutdown
        self._handed_back: dict[str, int] = {}
        self._draining = False

    @property
    def running(self) -> int:
        return len(self._tasks)

    def is_running(self, job_id: str) -> bool:
        return job_id in self._tasks

    def free_slots(self) -> int:
        """Return how many jobs may start now; none while a job waits for a whole device."""
        if self._draining or self._waiting_alone or len(self._fetching) >= _MAX_FETCHING:
            return 0
        return max(0, self._pool.slots - len(self._tasks) + len(self._fetching))

    def start(self, job: Job, on_done: OnDone) -> None:
        """Run a claimed job to its end.

        `on_done` gets the error if the outcome could not be stored.
        """
        self._progress.begin(job)
        task = asyncio.create_task(self._run(job), name=f"job {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda task: self._finish(job, task, on_done))

    def _finish(self, job: Job, task: asyncio.Task[None], on_done: OnDone) -> None:
        del self._tasks[job.id]
        self._cancelled.discard(job.id)
        self._progress.end(job.id)
        on_done(job, None if task.cancelled() else task.exception())

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job and wait for its end; return False if it is not running."""
        task = self._tasks.get(job_id)
        if task is None:
            return False
        if job_id not in self._cancelled:  # a second request must not interrupt the first one's cleanup
            self._cancelled.add(job_id)
            task.cancel()
        await asyncio.wait([task])
        return True

    async def drain(self, grace_s: float, forced: asyncio.Event) -> dict[str, int]:
        """Wait `grace_s` for running jobs, or until `forced` is set, then stop them.

        Returns job id → attempt of the interrupted jobs.
        """
        self._draining = True
        if self._tasks and grace_s > 0:
            done = asyncio.create_task(asyncio.wait(list(self._tasks.values())))
            force = asyncio.create_task(forced.wait())
            await asyncio.wait([done, force], timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
            done.cancel()
            force.cancel()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self._handed_back

    async def _run(self, job: Job) -> None:
        """Make attempts until the job has ended. Raises `StoreFailed` if the outcome could not be stored."""
        alone = job.attempt >= _SUSPECT_ATTEMPT
        try:
            while True:
                log.info("attempt started", extra=_fields(job))
                try:
                    job = await self._with_input(job)
                    done = await self._attempt(job, alone=alone)
                    await asyncio.shield(self._complete(job, done))
                    return
                except StoreFailed:
                    raise
                except StemifyError as error:
                    decision = retry_decision(job, error, max_attempts=self._max_attempts)
                    handling = asyncio.create_task(self._handle_failure(job, error, decision))
                    try:
                        following = await asyncio.shield(handling)
                    except asyncio.CancelledError:  # hand back the attempt that is in the store
                        job = await handling or job
                        raise
                    if following is None or not isinstance(decision, Retry):
                        return
                    job, alone = following, alone or decision.alone
                    await asyncio.sleep(decision.pause_s)
        except asyncio.CancelledError:
            if job.id in self._cancelled:
                await asyncio.shield(self.fail(job, Cancelled()))
            else:
                await asyncio.shield(self.cleanup.clear_scratch(job.id))
                self._handed_back[job.id] = job.attempt
                log.info("attempt handed back", extra=_fields(job))
            raise
        except StoreFailed:
            raise
        except Exception as error:
            log.exception("attempt raised an unexpected error", extra=_fields(job))
            await self.fail(job, InternalError(detail=repr(error)))

    async def _handle_failure(self, job: Job, error: StemifyError, decision: Retry | StemifyError) -> Job | None:
        """Start the job's next attempt in the store, or end the job; return the job if it goes on."""
        await self.cleanup.clear_scratch(job.id)
        log.warning("attempt failed", extra=_fields(job, code=error.code, told=error.message, reason=error.detail))
        if isinstance(decision, StemifyError):
            await self.fail(job, decision)
            return None
        following = await self._store.next_attempt(job.id, job.attempt)
        if following is None:
            await self.cleanup.clear_lost_attempt(job.id)
        elif self._draining:
            self._handed_back[job.id] = following.attempt
            return None
        return following

    async def fail(self, job: Job, error: StemifyError) -> None:
        """Fail the job unless it has already ended. `Cancelled` ends it in any attempt."""
        cancelled = isinstance(error, Cancelled)
        failed = await self._store.fail(
            job.id,
            attempt=None if cancelled else job.attempt,
            code=error.code,
            message=error.message,
            actual_duration=round(self._progress.elapsed_s(job.id)),
            also=self.refund(job),
        )
        if failed is not None:
            log.info("job failed", extra=_fields(failed, code=error.code))
            await self.cleanup.clear_job(job.id, keep_input=not cancelled)
        else:
            await self.cleanup.clear_lost_attempt(job.id)
        self._progress.notify(job.id)

    def refund(self, job: Job) -> Step | None:
        """Return the step that refunds the job to the quota, unless it has reached the separation."""
        return None if self._progress.has_separated(job) else self._quota.give_back_in(job.owner, job.id)

    async def _with_input(self, job: Job) -> Job:
        """Fetch the audio of a link, unless an earlier attempt did."""
        if job.input_type is not InputType.YOUTUBE_URL or await self._has_input(job):
            return job
        self._fetching.add(job.id)
        self.on_capacity()
        try:
            self._progress.report(job, Stage.FETCHING, 0.0)
            async with self._downloads:
                fetched = await self._fetch_link(
                    job, lambda fraction: self._progress.report(job, Stage.FETCHING, fraction)
                )
        finally:
            self._fetching.discard(job.id)
        await self._store.set_input(
            job.id,
            job.attempt,
            title=fetched.title,
            artist=fetched.artist,
            input_size=fetched.size_bytes,
            input_duration=fetched.duration_s,
        )
        updated = await self._store.get(job.id)
        if updated is None:
            raise InternalError(detail="the job was deleted while its link was fetched")
        return updated

    async def _has_input(self, job: Job) -> bool:
        return await self._storage.size(f"jobs/{job.id}/input") is not None

    async def _attempt(self, job: Job, *, alone: bool) -> Done:
        audio_s = job.input_duration or self._max_duration_s
        deadline_s = await self._speed.deadline_s(job, audio_s, self._pool.device)
        deadline_on_cpu_s = await self._speed.deadline_s(job, audio_s, "cpu")
        if alone:
            self._waiting_alone.add(job.id)

        def report(stage: Stage, fraction: float) -> None:
            if job.id in self._waiting_alone:  # it has a worker now; other jobs may start
                self._waiting_alone.discard(job.id)
                self.on_capacity()
            self._progress.report(job, stage, fraction)

        def on_cpu() -> float:
            self._progress.report_cpu_fallback(job)
            return deadline_on_cpu_s

        try:
            return await self._pool.run(
                AttemptSpec.of(job, self._max_duration_s),
                exclusive=alone,
                timeout_s=deadline_s,
                stall_factor=deadline_s / self._short_timeout_s,
                on_progress=report,
                on_cpu=on_cpu,
            )
        except AttemptTimedOut:
            # Speed is learned from completed jobs; a device that completes none would never get a longer deadline.
            running = self._progress.get(job.id)
            if running is not None and running.reached > 0:
                await self._learn(job, deadline_s * 100 / running.reached, audio_s)
            raise
        finally:
            self._waiting_alone.discard(job.id)

    async def _complete(self, job: Job, done: Done) -> None:
        elapsed_s = self._progress.elapsed_s(job.id)
        completed = await self._store_with_retry(
            job, lambda: self._store.complete(job.id, job.attempt, done.result, round(elapsed_s))
        )
        if completed is None:
            log.warning("attempt finished after the job had moved on", extra=_fields(job))
            await self.cleanup.clear_lost_attempt(job.id)
            return
        log.info("job completed", extra=_fields(job, elapsed_s=round(elapsed_s, 1)))
        self._progress.count_completed(done.input_duration_s, done.result.processing_time)
        if is_long_enough_to_learn(done.input_duration_s):
            with contextlib.suppress(StemifyError):
                await self._learn(job, done.separating_s, done.input_duration_s)
        await self.cleanup.clear_completed(job.id, job.attempt)

    async def _store_with_retry(self, job: Job, write: Callable[[], Awaitable[Job | None]]) -> Job | None:
        """Write the outcome of a finished attempt, retrying for a while."""
        for pause_s in _STORE_PAUSES_S:
            try:
                return await write()
            except StoreFailed as error:
                reason = error.detail or error.message
                log.error("could not store a finished attempt, will retry", extra=_fields(job, reason=reason))
                await asyncio.sleep(pause_s)
        return await write()

    async def _learn(self, job: Job, processing_s: float, audio_s: float) -> None:
        """Record the speed of the device, unless the CPU stood in for it."""
        running = self._progress.get(job.id)
        if running is None or not running.on_cpu:
            await self._speed.learn(job, self._pool.device, processing_s=processing_s, audio_s=audio_s)


def _fields(job: Job, **more: object) -> dict[str, Any]:
    return {"job": job.id, "attempt": job.attempt, **more}
