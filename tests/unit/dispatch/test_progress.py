"""Progress of running jobs, in memory."""

from __future__ import annotations

import pytest

from engine.database.job_store import ProgressUpdate
from engine.dispatch.progress import ProgressTracker
from engine.jobs.job import Job, JobStatus, Stage
from tests.fixtures.jobs import pending_job


def running_job() -> Job:
    return pending_job().model_copy(update={"status": JobStatus.PROCESSING, "attempt": 1})


def test_only_changed_progress_is_saved() -> None:
    tracker, jobs = ProgressTracker(), [running_job(), running_job()]
    for job in jobs:
        tracker.begin(job)
    assert tracker.take_unsaved() == []
    for job in jobs:
        tracker.report(job, Stage.SEPARATING, 0.5)
    assert tracker.take_unsaved() == [ProgressUpdate(job.id, 1, Stage.SEPARATING, 50) for job in jobs]
    tracker.report(jobs[1], Stage.SEPARATING, 0.75)
    assert tracker.take_unsaved() == [ProgressUpdate(jobs[1].id, 1, Stage.SEPARATING, 70)]
    tracker.end(jobs[1].id)
    assert tracker.take_unsaved() == []


def test_version_ignores_progress() -> None:
    tracker, job = ProgressTracker(), running_job()
    assert tracker.version(job.id) is None
    tracker.begin(job)
    tracker.report(job, Stage.SEPARATING, 0.1)
    version = tracker.version(job.id)
    tracker.report(job, Stage.SEPARATING, 0.9)
    assert tracker.version(job.id) == version
    tracker.report(job, Stage.ENCODING, 0.0)
    assert tracker.version(job.id) != version
    tracker.end(job.id)
    assert tracker.version(job.id) is None


@pytest.mark.parametrize("count", [3, 80])
def test_remaining_excludes_own_job(count: int) -> None:
    tracker, jobs = ProgressTracker(), [running_job() for _ in range(count)]
    for job in jobs:
        tracker.begin(job)
    assert tracker.remaining_s(but="") == pytest.approx(30 * count, rel=0.01)
    assert tracker.remaining_s(but=jobs[0].id) == pytest.approx(30 * (count - 1), rel=0.01)


def test_restarted_job_eta_uses_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("engine.dispatch.progress.time.monotonic", lambda: now)
    tracker = ProgressTracker()
    interrupted = running_job().model_copy(update={"progress": 80, "stage": Stage.SEPARATING})
    tracker.begin(interrupted)
    now += 2
    tracker.report(interrupted, Stage.SEPARATING, 0.0)
    assert tracker.with_live_progress(interrupted).progress == 80, "shown progress does not decrease"
    assert tracker.own_remaining_s(interrupted) > 0.8 * interrupted.estimated_duration
    now += 28
    tracker.report(interrupted, Stage.SEPARATING, 0.5)
    assert tracker.own_remaining_s(interrupted) == pytest.approx(30)
    again = interrupted.model_copy(update={"attempt": 2})
    now += 100
    tracker.report(again, Stage.DECODING, 0.0)
    now += 30
    tracker.report(again, Stage.SEPARATING, 0.5)
    assert tracker.own_remaining_s(again) == pytest.approx(30), "the pace is that of the current attempt"
