"""What is known of running jobs between two writes to the disk."""

from __future__ import annotations

import pytest

from engine.database.job_store import ProgressUpdate
from engine.dispatch.progress import ProgressTracker
from engine.jobs.job import Job, JobStatus, Stage
from tests.fixtures.jobs import pending_job


def running_job() -> Job:
    return pending_job().model_copy(update={"status": JobStatus.PROCESSING, "attempt": 1})


def test_only_what_has_moved_is_saved_again() -> None:
    live, jobs = ProgressTracker(), [running_job(), running_job()]
    for job in jobs:
        live.begin(job)
    assert live.take_unsaved() == []
    for job in jobs:
        live.report(job, Stage.SEPARATING, 0.5)
    assert live.take_unsaved() == [ProgressUpdate(job.id, 1, Stage.SEPARATING, 50) for job in jobs]
    live.report(jobs[1], Stage.SEPARATING, 0.75)
    assert live.take_unsaved() == [ProgressUpdate(jobs[1].id, 1, Stage.SEPARATING, 70)]
    live.end(jobs[1].id)
    assert live.take_unsaved() == []


def test_version_ignores_progress() -> None:
    live, job = ProgressTracker(), running_job()
    assert live.version(job.id) is None
    live.begin(job)
    live.report(job, Stage.SEPARATING, 0.1)
    version = live.version(job.id)
    live.report(job, Stage.SEPARATING, 0.9)
    assert live.version(job.id) == version
    live.report(job, Stage.ENCODING, 0.0)
    assert live.version(job.id) != version
    live.end(job.id)
    assert live.version(job.id) is None


@pytest.mark.parametrize("count", [3, 80])
def test_remaining_excludes_own_job(count: int) -> None:
    live, jobs = ProgressTracker(), [running_job() for _ in range(count)]
    for job in jobs:
        live.begin(job)
    assert live.remaining_s(but="") == pytest.approx(30 * count, rel=0.01)
    assert live.remaining_s(but=jobs[0].id) == pytest.approx(30 * (count - 1), rel=0.01)


def test_restarted_job_eta_uses_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("engine.dispatch.progress.time.monotonic", lambda: now)
    live = ProgressTracker()
    interrupted = running_job().model_copy(update={"progress": 80, "stage": Stage.SEPARATING})
    live.begin(interrupted)
    now += 2
    live.report(interrupted, Stage.SEPARATING, 0.0)
    assert live.with_live_progress(interrupted).progress == 80, "what people see does not go back"
    assert live.own_remaining_s(interrupted) > 0.8 * interrupted.estimated_duration
    now += 28
    live.report(interrupted, Stage.SEPARATING, 0.5)
    assert live.own_remaining_s(interrupted) == pytest.approx(30)
    again = interrupted.model_copy(update={"attempt": 2})
    now += 100
    live.report(again, Stage.DECODING, 0.0)
    now += 30
    live.report(again, Stage.SEPARATING, 0.5)
    assert live.own_remaining_s(again) == pytest.approx(30), "an earlier attempt's time is not this one's pace"
