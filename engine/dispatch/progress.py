"""What the running attempts last reported, not yet on disk, and who wants to hear of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.database.job_store import ProgressUpdate
from engine.jobs.estimates import remaining_s
from engine.jobs.job import Job, Stage, overall_progress

_EXACT_UP_TO_JOBS = 50
_CACHE_TTL_S = 1.0

Mark = tuple[int, Stage | None, bool]
"""Attempt, stage, whether the CPU stands in: while they stay, a job does nothing but move on."""


@dataclass
class RunningJob:
    """Where one running job is. Times are of the monotonic clock. `progress` is what people see, which never goes
    back; `reached` is how far this attempt is, which began at 0."""

    job: Job  # as it was when it was begun with
    attempt: int
    stage: Stage | None
    progress: int
    started_at: float
    stage_since: float
    attempt_since: float
    reached: int = 0
    on_cpu: bool = False  # in place of a GPU without memory


class ProgressTracker:
    def __init__(self) -> None:
        self._jobs: dict[str, RunningJob] = {}
        self._sum_s = self._summed_at = 0.0
        self._saved: set[ProgressUpdate] = set()
        self._listeners: list[Callable[[str], None]] = []
        self.stage_seconds: dict[str, float] = {}
        """Seconds spent per stage, over all attempts of this process."""

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """`listener(job_id)` is called in the event loop whenever something about a job may have changed."""
        self._listeners.append(listener)

    def notify(self, job_id: str) -> None:
        for listener in self._listeners:
            listener(job_id)

    def begin(self, job: Job) -> None:
        now = time.monotonic()
        self._jobs[job.id] = RunningJob(job, job.attempt, job.stage, job.progress, now, now, now)
        self.notify(job.id)

    def end(self, job_id: str) -> None:
        live = self._jobs.pop(job_id, None)
        if live is not None:
            self._count(live)
        self.notify(job_id)

    def report(self, job: Job, stage: Stage, fraction: float) -> None:
        """An attempt is `fraction` (0-1) into `stage`. Progress never goes back, a later attempt's neither."""
        live = self._jobs.get(job.id)
        if live is None:
            return
        if live.attempt != job.attempt:
            live.attempt_since = time.monotonic()
        live.reached = overall_progress(stage, fraction)
        progress = max(live.progress, live.reached)
        if (live.attempt, live.stage, live.progress) == (job.attempt, stage, progress):
            return
        if stage is not live.stage:
            self._count(live)
        live.on_cpu = live.on_cpu and live.attempt == job.attempt
        live.attempt, live.stage, live.progress = job.attempt, stage, progress
        self.notify(job.id)

    def report_cpu_fallback(self, job: Job) -> None:
        """The CPU has to stand in for the GPU in this attempt."""
        if live := self._jobs.get(job.id):
            live.on_cpu = True
            self.notify(job.id)

    def take_unsaved(self) -> list[ProgressUpdate]:
        """How far the jobs are that have moved since this was last asked."""
        reports = [
            ProgressUpdate(job_id, live.attempt, live.stage, live.progress)
            for job_id, live in self._jobs.items()
            if live.stage is not None
        ]
        before, self._saved = self._saved, set(reports)
        return [report for report in reports if report not in before]

    def get(self, job_id: str) -> RunningJob | None:
        return self._jobs.get(job_id)

    def mark(self, job_id: str) -> Mark | None:
        """None when the job does not run."""
        live = self._jobs.get(job_id)
        return (live.attempt, live.stage, live.on_cpu) if live is not None else None

    def elapsed_s(self, job_id: str) -> float:
        """Since this process began with the job; 0 when it does not run."""
        live = self._jobs.get(job_id)
        return time.monotonic() - live.started_at if live else 0.0

    def remaining_s(self, *, but: str) -> float:
        """Seconds until all that runs is done, one after the other; without the job `but`. Asked for every job that
        waits, so it is worked out once a second at most where many run."""
        now = time.monotonic()
        if len(self._jobs) <= _EXACT_UP_TO_JOBS or now - self._summed_at >= _CACHE_TTL_S:
            self._sum_s, self._summed_at = sum(self._one_remaining_s(live, now) for live in self._jobs.values()), now
        own = self._jobs.get(but)
        return max(0.0, self._sum_s - (self._one_remaining_s(own, now) if own else 0.0))

    def own_remaining_s(self, job: Job) -> float:
        """Seconds until this job, which runs, is done."""
        live = self._jobs.get(job.id)
        return self._one_remaining_s(live, time.monotonic()) if live else remaining_s(job, 0, 0.0)

    @staticmethod
    def _one_remaining_s(live: RunningJob, now: float) -> float:
        return remaining_s(live.job, live.reached, now - live.attempt_since)

    def with_live_progress(self, job: Job) -> Job:
        """The job with the progress that is not on disk yet."""
        live = self._jobs.get(job.id)
        if live is None or job.is_over:
            return job
        return job.model_copy(update={"progress": max(job.progress, live.progress), "stage": live.stage or job.stage})

    def _count(self, live: RunningJob) -> None:
        now = time.monotonic()
        if live.stage is not None:
            self.stage_seconds[live.stage] = self.stage_seconds.get(live.stage, 0.0) + now - live.stage_since
        live.stage_since = now
