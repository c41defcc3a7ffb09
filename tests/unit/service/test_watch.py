"""Notification of the readers that watch a job."""

from __future__ import annotations

import pytest

from engine.dispatch.progress import ProgressTracker
from engine.jobs.job import Job, JobStatus, Stage
from engine.service import watch
from engine.service.watch import Watchers
from tests.fixtures.jobs import pending_job


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_WAITING", "_RUNNING"):
        monkeypatch.setattr(watch, name, getattr(watch, name)._replace(refresh_s=0.01))


@pytest.fixture
def tracker() -> ProgressTracker:
    return ProgressTracker()


@pytest.fixture
def job(tracker: ProgressTracker) -> Job:
    """Return a job that is separating."""
    job = pending_job().model_copy(update={"status": JobStatus.PROCESSING, "attempt": 1})
    tracker.begin(job)
    tracker.report(job, Stage.SEPARATING, 0.1)
    return job


async def test_progress_does_not_wake_watcher(tracker: ProgressTracker, job: Job) -> None:
    with Watchers(tracker).watching(job.id) as watcher:
        tracker.report(job, Stage.SEPARATING, 0.5)
        assert not await watcher.wait()


async def test_new_stage_wakes_watcher_until_loaded(tracker: ProgressTracker, job: Job) -> None:
    with Watchers(tracker).watching(job.id) as watcher:
        tracker.report(job, Stage.ENCODING, 0.0)
        assert await watcher.wait() and await watcher.wait()
        watcher.mark_loaded()
        assert not await watcher.wait()
        tracker.end(job.id)
        assert await watcher.wait()


async def test_every_notification_wakes_watcher_of_inactive_job(tracker: ProgressTracker) -> None:
    watchers = Watchers(tracker)
    with watchers.watching("some job") as watcher:
        watchers.notify("other job")
        assert not await watcher.wait()
        watchers.notify("some job")
        assert await watcher.wait()


async def test_running_job_is_reloaded_after_interval(
    tracker: ProgressTracker, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_RUNNING", watch._RUNNING._replace(reload_s=0.0))
    with Watchers(tracker).watching(job.id) as watcher:
        assert await watcher.wait()
