"""Progress of running jobs, kept in memory between two writes to the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.database.job_store import ProgressUpdate
from engine.jobs.estimates import remaining_s
from engine.jobs.job import STAGE_SPANS, Job, Stage, overall_progress

_EXACT_UP_TO_JOBS = 50
_CACHE_TTL_S = 1.0
_BEFORE_SEPARATION = (None, Stage.FETCHING, Stage.DECODING)


@dataclass
class RunningJob:
    """State of one running job. Times are monotonic, percentages 0-100."""

    job: Job  # as claimed
    attempt: int
    stage: Stage | None
    progress: int  # shown to users; never decreases
    started_at: float
    stage_since: float
    attempt_since: float
    reached: int = 0  # of the current attempt, which started at 0
    on_cpu: bool = False  # because the GPU ran out of memory
    has_separated: bool = False  # some attempt has reached the separation
    version: int = 0  # increases with every change but that of `progress`


class ProgressTracker:
    def __init__(self) -> None:
        self._jobs: dict[str, RunningJob] = {}
        self._remaining_sum_s = self._summed_at = 0.0
        self._saved: set[ProgressUpdate] = set()
        self._listeners: list[Callable[[str], None]] = []
        # Totals of this process, for the metrics.
        self.stage_seconds: dict[str, float] = {}
        self.audio_seconds = 0.0
        self.processing_seconds = 0.0

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Call `listener(job_id)` in the event loop whenever a job may have changed."""
        self._listeners.append(listener)

    def notify(self, job_id: str) -> None:
        for listener in self._listeners:
            listener(job_id)

    def begin(self, job: Job) -> None:
        now = time.monotonic()
        has_separated = _has_separated(job)
        self._jobs[job.id] = RunningJob(
            job, job.attempt, job.stage, job.progress, now, now, now, has_separated=has_separated
        )
        self.notify(job.id)

    def end(self, job_id: str) -> None:
        running = self._jobs.pop(job_id, None)
        if running is not None:
            self._count_stage(running)
        self.notify(job_id)

    def report(self, job: Job, stage: Stage, fraction: float) -> None:
        """Record that an attempt is `fraction` (0-1) into `stage`. Shown progress never decreases."""
        running = self._jobs.get(job.id)
        if running is None:
            return
        if running.attempt != job.attempt:
            running.attempt_since = time.monotonic()
        running.reached = overall_progress(stage, fraction)
        progress = max(running.progress, running.reached)
        if (running.attempt, running.stage, running.progress) == (job.attempt, stage, progress):
            return
        if stage is not running.stage:
            self._count_stage(running)
        if (running.attempt, running.stage) != (job.attempt, stage):
            running.version += 1
        running.on_cpu = running.on_cpu and running.attempt == job.attempt
        running.has_separated = running.has_separated or stage not in _BEFORE_SEPARATION
        running.attempt, running.stage, running.progress = job.attempt, stage, progress
        self.notify(job.id)

    def report_cpu_fallback(self, job: Job) -> None:
        """Record that the current attempt runs on the CPU instead of its GPU."""
        if running := self._jobs.get(job.id):
            running.on_cpu = True
            running.version += 1
            self.notify(job.id)

    def count_completed(self, audio_s: float, processing_s: float) -> None:
        """Add a completed job to the totals."""
        self.audio_seconds += audio_s
        self.processing_seconds += processing_s

    def take_unsaved(self) -> list[ProgressUpdate]:
        """Return the progress of the jobs that have changed since the last call."""
        updates = [
            ProgressUpdate(job_id, running.attempt, running.stage, running.progress)
            for job_id, running in self._jobs.items()
            if running.stage is not None
        ]
        before, self._saved = self._saved, set(updates)
        return [update for update in updates if update not in before]

    def get(self, job_id: str) -> RunningJob | None:
        return self._jobs.get(job_id)

    def has_separated(self, job: Job) -> bool:
        """Return whether some attempt of the job has reached the separation."""
        running = self._jobs.get(job.id)
        return _has_separated(job) if running is None else running.has_separated

    def version(self, job_id: str) -> int | None:
        """Return a number that stays the same while only the progress changes; None if the job is not running."""
        running = self._jobs.get(job_id)
        return running.version if running is not None else None

    def elapsed_s(self, job_id: str) -> float:
        """Return the seconds since the job was claimed; 0 if it is not running."""
        running = self._jobs.get(job_id)
        return time.monotonic() - running.started_at if running else 0.0

    def remaining_s(self, *, but: str) -> float:
        """Return the sum of the remaining seconds of all running jobs, without the job `but`.

        The sum is cached for a second when many jobs run: it is needed for every job that waits.
        """
        now = time.monotonic()
        if len(self._jobs) <= _EXACT_UP_TO_JOBS or now - self._summed_at >= _CACHE_TTL_S:
            self._remaining_sum_s = sum(self._remaining_s(running, now) for running in self._jobs.values())
            self._summed_at = now
        own = self._jobs.get(but)
        return max(0.0, self._remaining_sum_s - (self._remaining_s(own, now) if own else 0.0))

    def own_remaining_s(self, job: Job) -> float:
        """Return the remaining seconds of a running job."""
        running = self._jobs.get(job.id)
        return self._remaining_s(running, time.monotonic()) if running else remaining_s(job, 0, 0.0)

    @staticmethod
    def _remaining_s(running: RunningJob, now: float) -> float:
        return remaining_s(running.job, running.reached, now - running.attempt_since)

    def with_live_progress(self, job: Job) -> Job:
        """Return the job with progress that is not saved yet."""
        running = self._jobs.get(job.id)
        if running is None or job.is_over:
            return job
        return job.model_copy(
            update={"progress": max(job.progress, running.progress), "stage": running.stage or job.stage}
        )

    def _count_stage(self, running: RunningJob) -> None:
        now = time.monotonic()
        if running.stage is not None:
            spent_s = now - running.stage_since
            self.stage_seconds[running.stage] = self.stage_seconds.get(running.stage, 0.0) + spent_s
        running.stage_since = now


def _has_separated(job: Job) -> bool:
    """Return what the database shows; it lags a few seconds behind."""
    return job.progress > STAGE_SPANS[Stage.SEPARATING][0] or job.stage not in _BEFORE_SEPARATION
