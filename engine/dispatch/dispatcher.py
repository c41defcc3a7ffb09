"""Claims jobs in fair order and recovers jobs that an earlier process left running.

Progress is kept in memory and saved every few seconds. Changes of a job's state are written at once, fenced by the
attempt number.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from pathlib import Path

from engine.database.job_store import JobStore
from engine.dispatch.progress import ProgressTracker
from engine.dispatch.runner import JobRunner
from engine.errors import Cancelled, StemifyError, WorkerDied
from engine.jobs.job import Job, JobStatus

log = logging.getLogger(__name__)

_SAVE_INTERVAL_S = 3.0
_STORE_RETRY_S = 5.0
_LAST_CLAIM_S = 15.0


class Dispatcher:
    def __init__(
        self, store: JobStore, runner: JobRunner, progress: ProgressTracker, handover: Path, *, max_attempts: int
    ) -> None:
        """`handover`: the file in which an orderly stop records the attempts it interrupted.

        They are repeated without counting; only crashes use up attempts.
        """
        self._store = store
        self._runner = runner
        self._progress = progress
        self._handover = handover
        self._max_attempts = max_attempts
        self._wake = asyncio.Event()
        self._stopping = False
        self._recovered: list[Job] = []
        self._lost: set[str] = set()
        """Jobs in `_recovered` whose attempt ended with a crash.

        Their next attempt is counted when it starts, not while it waits for a worker: repeated crashes at start-up
        must not use up the attempts."""
        self._rescues: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._saver: asyncio.Task[None] | None = None
        runner.on_capacity = self.wake

    async def start(self) -> None:
        """Recover the jobs of an earlier process, then start to claim."""
        handed_back = await asyncio.to_thread(_take_handover, self._handover)
        for job in await self._store.processing():
            await self._runner.cleanup.clear_scratch(job.id)
            if handed_back.get(job.id) == job.attempt:
                await self._runner.cleanup.clear_output(job)
                self._recovered.append(job)
            else:
                await self._recover(job)
        self._loop = asyncio.create_task(self._claim_forever(), name="dispatcher")
        self._saver = asyncio.create_task(self._save_progress(), name="saver")

    async def stop(self, grace_s: float, forced: asyncio.Event | None = None) -> None:
        """Stop claiming, then drain the runner; interrupted jobs resume at the next start."""
        self._stopping = True
        if self._loop is not None:
            self._wake.set()
            # Cancelling the loop could lose a job claimed just now.
            await asyncio.wait([self._loop], timeout=_LAST_CLAIM_S)
            await _cancel(self._loop)
        interrupted = await self._runner.drain(grace_s, forced or asyncio.Event())
        await _cancel(*self._rescues, *([self._saver] if self._saver is not None else []))
        waiting = {job.id: job.attempt for job in self._recovered if job.id not in self._lost}
        await asyncio.to_thread(_write_handover, self._handover, {**waiting, **interrupted})

    def wake(self) -> None:
        """Look for a job to claim: there may be a new one, or a free slot."""
        self._wake.set()

    @property
    def running(self) -> int:
        return self._runner.running

    async def cancel(self, job_id: str) -> Job | None:
        """Cancel a pending or running job and delete its files; return None if it had already ended."""
        job = await self._store.get(job_id)
        if job is None or job.is_over:
            return None
        if await self._runner.cancel(job_id):
            return await self._store.get(job_id)
        self._recovered = [waiting for waiting in self._recovered if waiting.id != job_id]
        self._lost.discard(job_id)
        cancelled = Cancelled()
        failed = await self._store.fail(
            job_id, attempt=None, code=cancelled.code, message=cancelled.message, also=self._runner.refund(job)
        )
        if await self._runner.cancel(job_id):  # it was claimed in the meantime
            return await self._store.get(job_id)
        if failed is not None:
            log.info("job failed", extra={"job": job_id, "attempt": failed.attempt, "code": cancelled.code})
            await self._runner.cleanup.clear_job(job_id)
            self._progress.notify(job_id)
        return failed

    async def _recover(self, job: Job) -> None:
        """Queue the next attempt of a job that is `processing` but does not run, or fail it."""
        if job.attempt >= self._max_attempts:
            died = WorkerDied(f"This job was interrupted {job.attempt} times and has been given up. Submit it again.")
            await self._runner.fail(job, died)
        else:
            self._lost.add(job.id)
            self._recovered.append(job)

    async def _claim_forever(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                while self._may_claim() and (job := await self._next()) is not None:
                    self._runner.start(job, self._on_done)
            except StemifyError as error:
                log.error("could not claim a job", extra={"reason": error.detail or error.message})
                await asyncio.sleep(1.0)
                continue
            await self._wake.wait()

    def _may_claim(self) -> bool:
        return not self._stopping and self._runner.free_slots() > 0

    async def _next(self) -> Job | None:
        while self._recovered:
            job = self._recovered[0]
            started = await self._store.next_attempt(job.id, job.attempt) if job.id in self._lost else job
            if job not in self._recovered:  # cancelled in the meantime
                continue
            self._recovered.remove(job)
            self._lost.discard(job.id)
            if started is not None:
                return started
        return await self._store.claim()

    def _on_done(self, job: Job, error: BaseException | None) -> None:
        if error is not None:
            log.error("could not store the outcome of a job", exc_info=error, extra={"job": job.id})
            rescue = asyncio.create_task(self._retry_store(job.id), name=f"rescue {job.id}")
            self._rescues.add(rescue)
            rescue.add_done_callback(self._rescues.discard)
        self.wake()

    async def _retry_store(self, job_id: str) -> None:
        """Recover a job whose outcome could not be stored, as soon as the store works again."""
        while True:
            await asyncio.sleep(_STORE_RETRY_S)
            try:
                job = await self._store.get(job_id)
                if job is not None and job.status is JobStatus.PROCESSING and not self._runner.is_running(job_id):
                    await self._recover(job)
            except StemifyError as error:
                reason = error.detail or error.message
                log.error("could not recover a job, will retry", extra={"job": job_id, "reason": reason})
                continue
            self._progress.notify(job_id)
            self.wake()
            return

    async def _save_progress(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_INTERVAL_S)
            if updates := self._progress.take_unsaved():
                with contextlib.suppress(StemifyError):
                    await self._store.save_progress(updates)


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _write_handover(path: Path, attempts: dict[str, int]) -> None:
    if attempts:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(attempts))
        part.replace(path)


def _take_handover(path: Path) -> dict[str, int]:
    """Read and delete the record of the last orderly stop: job id → attempt."""
    try:
        attempts = json.loads(path.read_text())
        path.unlink()
    except (OSError, ValueError):
        return {}
    if not isinstance(attempts, dict):
        return {}
    return {str(job_id): int(attempt) for job_id, attempt in attempts.items()}
