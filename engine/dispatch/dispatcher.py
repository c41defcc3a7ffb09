"""Claims jobs fairly, takes up what a crash left behind, cancels, and closes down in order. One task a job.

What an attempt reports is kept in memory (`live`) and saved every few seconds; what changes a job's state is written
at once, fenced by the attempt's number.
"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

from engine.database.job_store import JobStore
from engine.dispatch.progress import ProgressTracker
from engine.dispatch.runner import JobRunner
from engine.errors import Cancelled, StemifyError, WorkerDied
from engine.jobs.job import Job, JobStatus
from engine.pool.pool import WorkerPool

log = logging.getLogger(__name__)

_CLAIMED_LINKS = 32  # links that may wait to be fetched, beside what occupies the workers
_POLL_S = 5.0
_LAST_CLAIM_S = 15.0


class Dispatcher:
    def __init__(
        self,
        store: JobStore,
        pool: WorkerPool,
        attempts: JobRunner,
        live: ProgressTracker,
        handover: Path,
        *,
        max_attempts: int,
    ) -> None:
        """`handover`: a file in which an orderly stop notes what it interrupted, so that only crashes count as
        attempts."""
        self._store = store
        self._pool = pool
        self._attempts = attempts
        self._live = live
        self._handover = handover
        self._max_attempts = max_attempts
        self._wake = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._recovered: list[Job] = []
        self._lost: set[str] = set()
        """Those of `_recovered` whose attempt a crash took: the next one counts when it begins, not when it waits for
        a worker, so that a machine that goes down again and again at its start uses up nobody's attempts."""
        self._rescues: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._saver: asyncio.Task[None] | None = None
        attempts.on_room = self.wake

    async def start(self) -> None:
        """Take up what an earlier life left behind, then begin to claim."""
        handed_back = await asyncio.to_thread(_take_handover, self._handover)
        for job in await self._store.processing():
            await self._attempts.clear_scratch(job.id)
            if handed_back.get(job.id) == job.attempt:
                await self._attempts.clear_result(job)
                self._recovered.append(job)
            else:
                await self._recover(job)
        self._loop = asyncio.create_task(self._claim_forever(), name="dispatcher")
        self._saver = asyncio.create_task(self._attempts.save_progress(), name="saver")

    async def stop(self, grace_s: float, hurried: asyncio.Event | None = None) -> None:
        """Claim nothing more; give running attempts `grace_s` to end, or until `hurried` is set; what is left is taken
        up at the next start."""
        self._attempts.draining = True
        if self._loop is not None:
            self._wake.set()
            # Cancelled, it could lose a job that it has just claimed.
            await asyncio.wait([self._loop], timeout=_LAST_CLAIM_S)
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        if self._tasks and grace_s > 0:
            await self._until_done(grace_s, hurried or asyncio.Event())
        tasks = [*self._tasks.values(), *self._rescues, *([self._saver] if self._saver is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        waiting = {job.id: job.attempt for job in self._recovered if job.id not in self._lost}
        await asyncio.to_thread(_leave_handover, self._handover, {**waiting, **self._attempts.handed_back})

    async def _until_done(self, grace_s: float, hurried: asyncio.Event) -> None:
        done = asyncio.create_task(asyncio.wait(list(self._tasks.values())))
        hurry = asyncio.create_task(hurried.wait())
        await asyncio.wait([done, hurry], timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (done, hurry):
            waiting.cancel()

    def wake(self) -> None:
        """There may be something to claim, or a slot to run it in."""
        self._wake.set()

    @property
    def running(self) -> int:
        return len(self._tasks)

    async def cancel(self, job_id: str) -> Job | None:
        """End a pending or running job as cancelled, with nothing left of it. None: it was over already."""
        job = await self._store.get(job_id)
        if job is None or job.is_over:
            return None
        task = self._tasks.get(job_id)
        if task is None:
            self._recovered = [waiting for waiting in self._recovered if waiting.id != job_id]
            self._lost.discard(job_id)
            cancelled = Cancelled()
            failed = await self._store.fail(job_id, attempt=None, code=cancelled.code, message=cancelled.message)
            task = self._tasks.get(job_id)
            if task is None:
                if failed is not None:
                    log.info("job failed", extra={"job": job_id, "attempt": failed.attempt, "code": cancelled.code})
                    await self._attempts.clear(job_id)
                    self._live.notify(job_id)
                return failed
        if job_id not in self._attempts.cancelled:  # a second press must not disturb the clean-up of the first
            self._attempts.cancelled.add(job_id)
            task.cancel()
        await asyncio.wait([task])
        return await self._store.get(job_id)

    async def _recover(self, job: Job) -> None:
        """A job that is `processing` while nobody works on it: its next attempt, or its end."""
        if job.attempt >= self._max_attempts:
            died = WorkerDied(
                f"This job was interrupted {job.attempt} times and has been given up. Please ask for it again."
            )
            await self._attempts.end(job, died)
        else:
            self._lost.add(job.id)
            self._recovered.append(job)

    async def _claim_forever(self) -> None:
        while not self._attempts.draining:
            self._wake.clear()
            try:
                while self._has_capacity() and (job := await self._next()) is not None:
                    self._start(job)
            except StemifyError as error:
                log.error("the store does not answer: %s", error.detail or error.message)
                await asyncio.sleep(1.0)
                continue
            await self._wake.wait()

    def _has_capacity(self) -> bool:
        fetching = len(self._attempts.fetching)
        busy = len(self._tasks) - fetching
        is_room = busy < self._pool.slots and fetching < _CLAIMED_LINKS and not self._attempts.waiting_alone
        return is_room and not self._attempts.draining

    async def _next(self) -> Job | None:
        while self._recovered:
            job = self._recovered[0]
            begun = await self._store.next_attempt(job.id, job.attempt) if job.id in self._lost else job
            if job not in self._recovered:  # cancelled meanwhile
                continue
            self._recovered.remove(job)
            self._lost.discard(job.id)
            if begun is not None:
                return begun
        return await self._store.claim()

    def _start(self, job: Job) -> None:
        self._live.begin(job)
        # Twice interrupted is suspicious: it may have been the job that took everything down.
        task = asyncio.create_task(self._attempts.run(job, suspect=job.attempt >= 3), name=f"job {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda task: self._on_done(job, task))

    def _on_done(self, job: Job, task: asyncio.Task[None]) -> None:
        del self._tasks[job.id]
        self._attempts.cancelled.discard(job.id)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job %s: it cannot be stored how it went", job.id, exc_info=error)
            rescue = asyncio.create_task(self._retry_store(job.id), name=f"rescue {job.id}")
            self._rescues.add(rescue)
            rescue.add_done_callback(self._rescues.discard)
        self._live.end(job.id)
        self.wake()

    async def _retry_store(self, job_id: str) -> None:
        """Its task has failed with the store: look until the store answers, so that the job is not left standing."""
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                job = await self._store.get(job_id)
                if job is not None and job.status is JobStatus.PROCESSING and job_id not in self._tasks:
                    await self._recover(job)
            except StemifyError as error:
                log.error("job %s: the store does not answer: %s", job_id, error.detail or error.message)
                continue
            self._live.notify(job_id)
            self.wake()
            return


def _leave_handover(path: Path, handed_back: dict[str, int]) -> None:
    if handed_back:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(handed_back))
        part.replace(path)


def _take_handover(path: Path) -> dict[str, int]:
    """What the last orderly stop noted; it is good for one start."""
    try:
        noted = json.loads(path.read_text())
        path.unlink()
    except (OSError, ValueError):
        return {}
    return {str(job_id): int(attempt) for job_id, attempt in noted.items()} if isinstance(noted, dict) else {}
