"""Claims jobs fairly, runs their attempts, tries again, recovers after a crash.

One task a job. What an attempt reports is kept in memory (`live`) and saved every few seconds; what changes a job's
state is written at once, fenced by the attempt's number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID

from engine.errors import AttemptError, Cancelled, InternalError, StemifyError, WorkerDied
from engine.estimates import estimate_s, first_guess, timeout_s
from engine.jobs import InputType, Job, Stage
from engine.live import LiveJobs
from engine.pool import WorkerPool
from engine.protocol import AttemptSpec, Done
from engine.storage import Storage
from engine.store.store import Store

log = logging.getLogger(__name__)

_SAVE_INTERVAL_S = 3.0
_RETRY_PAUSES_S = (0.5, 2.0, 5.0)
_FETCHES_AT_ONCE = 2


@dataclass(frozen=True)
class AttemptLimits:
    """Times in seconds, lengths of audio in seconds."""

    max_attempts: int
    short_track_s: float
    short_timeout_s: float
    long_timeout_s: float
    max_duration_s: float


@dataclass(frozen=True)
class FetchedInput:
    """What became of a link: a file in the job's folder, and what is known about it."""

    key: str
    title: str
    artist: str | None
    size_bytes: int
    duration_s: float


class FetchLink(Protocol):
    """Turns a job's link into a file in storage; raises `SourceFailed` (and below) or `InputRefused`."""

    async def __call__(self, job: Job, on_progress: Callable[[float], None]) -> FetchedInput: ...


class Dispatcher:
    def __init__(
        self,
        store: Store,
        storage: Storage,
        pool: WorkerPool,
        fetch_link: FetchLink,
        limits: AttemptLimits,
        live: LiveJobs,
    ) -> None:
        self._store = store
        self._storage = storage
        self._pool = pool
        self._fetch_link = fetch_link
        self._limits = limits
        self._live = live
        self._wake = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._recovered: list[Job] = []
        self._fetching: set[str] = set()
        self._waiting_alone: set[str] = set()
        self._cancelled: set[str] = set()
        self._loop: asyncio.Task[None] | None = None
        self._draining = False
        self.audio_seconds = 0.0
        self.processing_seconds = 0.0

    async def start(self) -> None:
        """Take up what an earlier life left behind, then begin to claim."""
        for job in await self._store.processing():
            self._storage.clear_scratch(job.id)
            if job.attempt >= self._limits.max_attempts:
                died = WorkerDied(f"This job was interrupted {job.attempt} times and has been given up. Press Retry.")
                await self._end(job, died)
            elif (again := await self._store.next_attempt(job.id, job.attempt)) is not None:
                self._recovered.append(again)
        self._loop = asyncio.create_task(self._claim_forever(), name="dispatcher")

    async def stop(self, grace_s: float) -> None:
        """Claim nothing more; give running attempts `grace_s` to end; what is left is taken up at the next start."""
        self._draining = True
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        if self._tasks and grace_s > 0:
            await asyncio.wait(list(self._tasks.values()), timeout=grace_s)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """There may be something to claim, or a slot to run it in."""
        self._wake.set()

    @property
    def running(self) -> int:
        return len(self._tasks)

    async def cancel(self, job_id: str) -> Job | None:
        """End a pending or running job as cancelled, with nothing left of it. None: it was over already."""
        cancelled = Cancelled()
        job = await self._store.get(job_id)
        if job is None or job.is_over:
            return None
        task = self._tasks.get(job_id)
        if task is None:
            failed = await self._store.fail(job_id, attempt=None, code=cancelled.code, message=cancelled.message)
            if failed is not None and job_id not in self._tasks:
                await self._clear(job_id)
                self._live.tell(job_id)
                return failed
            task = self._tasks.get(job_id)
        self._cancelled.add(job_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        return await self._store.get(job_id)

    async def _claim_forever(self) -> None:
        while True:
            self._wake.clear()
            try:
                while self._may_take() and (job := await self._next()) is not None:
                    self._begin(job)
            except StemifyError as error:
                log.error("the store does not answer: %s", error.detail or error.message)
                await asyncio.sleep(1.0)
                continue
            await self._wake.wait()

    def _may_take(self) -> bool:
        busy = len(self._tasks) - len(self._fetching)
        return busy < self._pool.slots and len(self._fetching) < _FETCHES_AT_ONCE and not self._waiting_alone

    async def _next(self) -> Job | None:
        return self._recovered.pop(0) if self._recovered else await self._store.claim()

    def _begin(self, job: Job) -> None:
        self._live.begin(job)
        task = asyncio.create_task(self._run(job), name=f"job {job.id}")
        self._tasks[job.id] = task

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.pop(job.id, None)
            self._fetching.discard(job.id)
            self._waiting_alone.discard(job.id)
            self._cancelled.discard(job.id)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("job %s: its task failed", job.id, exc_info=error)
            self._live.end(job.id)
            self.wake()

        task.add_done_callback(ended)

    async def _run(self, job: Job) -> None:
        """All attempts of one job, to its end."""
        suspect = False
        saver = asyncio.create_task(self._save_progress(job.id))
        try:
            while True:
                try:
                    job = await self._with_input(job)
                    done = await self._attempt(job, alone=suspect)
                    await asyncio.shield(self._complete(job, done))
                    return
                except StemifyError as error:
                    suspect = isinstance(error, WorkerDied)
                    following = await asyncio.shield(self._decide(job, error))
                    if following is None:
                        return
                    job = following
        except asyncio.CancelledError:
            if job.id in self._cancelled:
                await asyncio.shield(self._end(job, Cancelled()))
            else:
                self._storage.clear_scratch(job.id)  # shutting down: the next start takes the job up
            raise
        except Exception as error:
            log.exception("job %s attempt %s", job.id, job.attempt)
            await self._end(job, InternalError(detail=repr(error)))
        finally:
            saver.cancel()

    async def _with_input(self, job: Job) -> Job:
        if job.input_type is not InputType.YOUTUBE_URL or self._storage.local_path(f"jobs/{job.id}/input").exists():
            return job
        self._fetching.add(job.id)
        self.wake()
        try:
            self._live.report(job, Stage.FETCHING, 0.0)
            found = await self._fetch_link(job, lambda fraction: self._live.report(job, Stage.FETCHING, fraction))
        finally:
            self._fetching.discard(job.id)
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
        expected_s = estimate_s(await self._speed(job), audio_s)
        deadline_s = timeout_s(
            audio_s,
            expected_s,
            short_track_s=self._limits.short_track_s,
            short_s=self._limits.short_timeout_s,
            long_s=self._limits.long_timeout_s,
        )
        if alone:
            self._waiting_alone.add(job.id)
        try:
            return await self._pool.run(
                self._spec(job),
                alone=alone,
                timeout_s=deadline_s,
                on_progress=lambda stage, fraction: self._live.report(job, stage, fraction),
            )
        finally:
            self._waiting_alone.discard(job.id)

    def _spec(self, job: Job) -> AttemptSpec:
        output_key = f"jobs/{job.id}/a{job.attempt}"
        return AttemptSpec(
            job_id=job.id,
            attempt=job.attempt,
            input_path=str(self._storage.local_path(f"jobs/{job.id}/input")),
            scratch_dir=str(self._scratch(job)),
            output_dir=str(self._storage.local_path(output_key)),
            output_key=output_key,
            options=job.options,
            title=job.title,
            artist=job.artist,
            seed=UUID(job.id).int & 0x7FFFFFFF,
            max_duration_s=self._limits.max_duration_s,
        )

    async def _speed(self, job: Job) -> float:
        learned = await self._store.speed(job.model, job.options.quality, self._pool.device)
        return learned or first_guess(job.model, job.options.quality, self._pool.device)

    async def _save_progress(self, job_id: str) -> None:
        saved: tuple[int, Stage | None, int] | None = None
        while True:
            await asyncio.sleep(_SAVE_INTERVAL_S)
            live = self._live.get(job_id)
            if live is None or live.stage is None or saved == (live.attempt, live.stage, live.progress):
                continue
            saved = (live.attempt, live.stage, live.progress)
            with contextlib.suppress(StemifyError):
                await self._store.save_progress(job_id, live.attempt, live.stage, live.progress)

    async def _complete(self, job: Job, done: Done) -> None:
        elapsed_s = self._live.elapsed_s(job.id)
        completed = await self._store.complete(job.id, job.attempt, done.result, round(elapsed_s))
        if completed is None:
            log.warning("job %s: attempt %s was lost before it was done", job.id, job.attempt)
            return
        log.info("job %s completed in %.1f s, attempt %s", job.id, elapsed_s, job.attempt)
        self.audio_seconds += done.input_duration_s
        self.processing_seconds += done.result.processing_time
        if done.input_duration_s > 0:
            await self._store.learn_speed(
                job.model,
                job.options.quality,
                self._pool.device,
                processing_s=done.result.processing_time,
                audio_s=done.input_duration_s,
            )
        await self._clear(job.id, keep_attempt=job.attempt)

    async def _decide(self, job: Job, error: StemifyError) -> Job | None:
        """After a failed attempt: the job's next attempt, or None when it has ended."""
        self._storage.clear_scratch(job.id)
        log.warning("job %s attempt %s: %s %s", job.id, job.attempt, error.code, error.detail or "")
        if error.transient and job.attempt < self._limits.max_attempts:
            following = await self._store.next_attempt(job.id, job.attempt)
            if following is not None:
                await asyncio.sleep(_RETRY_PAUSES_S[min(job.attempt, len(_RETRY_PAUSES_S)) - 1])
            return following
        if error.transient and job.attempt > 1:
            error = _after_attempts(error, job.attempt)
        await self._end(job, error)
        return None

    async def _end(self, job: Job, error: StemifyError) -> None:
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
            await self._clear(job.id, keep_input=not cancelled)
        self._live.tell(job.id)

    def _scratch(self, job: Job) -> Path:
        return self._storage.local_path(f"scratch/{job.id}-a{job.attempt}")

    async def _clear(self, job_id: str, *, keep_attempt: int | None = None, keep_input: bool = False) -> None:
        """Remove what the job leaves behind besides its result: scratch, lost attempts, the input."""
        await self._storage.tidy_job(job_id, keep_attempt=keep_attempt, keep_input=keep_input)


def _after_attempts(error: StemifyError, attempts: int) -> StemifyError:
    kind = type(error) if isinstance(error, AttemptError) else AttemptError
    told = kind.__new__(kind)
    StemifyError.__init__(told, f"{error.message} It was tried {attempts} times. Press Retry to try once more.")
    return told
