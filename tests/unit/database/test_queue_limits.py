"""Limits on the jobs in the queue."""

from __future__ import annotations

import asyncio

import pytest

from engine.database.job_store import JobStore
from engine.database.queue_limits import QueueLimits
from engine.errors import QueueFull
from engine.jobs.job import JobStatus
from tests.fixtures.jobs import NO_QUEUE_LIMITS, pending_job


async def test_full_queue_raises_with_retry_time(store: JobStore) -> None:
    limits = QueueLimits(per_owner=2, per_scope=3, total=5)
    await store.add(pending_job("a", scope="s", estimated_duration=120), limits)
    await store.add(pending_job("a", scope="s", estimated_duration=240), limits)
    with pytest.raises(QueueFull, match="You already have 2 jobs") as refused:
        await store.add(pending_job("a", scope="t"), limits)
    assert refused.value.retry_after_s == 120
    assert "2 minutes" in refused.value.message
    await store.add(pending_job("b", scope="s"), limits)
    with pytest.raises(QueueFull, match="3 jobs in the queue from here"):
        await store.add(pending_job("c", scope="s"), limits)
    await store.add(pending_job("c"), limits)
    await store.add(pending_job("c"), limits)
    with pytest.raises(QueueFull, match="queue is full, with 5 jobs"):
        await store.add(pending_job("d"), limits)
    assert (await store.counts())[JobStatus.PENDING] == 5


async def test_caps_count_running_but_not_finished_jobs(store: JobStore) -> None:
    limits = QueueLimits(per_owner=1, per_scope=1, total=1)
    await store.add(pending_job("a", scope="s"), limits)
    job = await store.claim()
    assert job is not None
    for late in (pending_job("a", scope="x"), pending_job("b", scope="s"), pending_job("c")):
        with pytest.raises(QueueFull):
            await store.add(late, limits)
    await store.fail(job.id, attempt=1, code="x", message="x.")
    await store.add(pending_job("a", scope="s"), limits)


async def test_caps_hold_when_many_submit_at_once(store: JobStore) -> None:
    limits = QueueLimits(per_owner=10, per_scope=50, total=1000)
    outcomes = await asyncio.gather(*(store.add(pending_job("a"), limits) for _ in range(40)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 10
    assert sum(isinstance(outcome, QueueFull) for outcome in outcomes) == 30


async def test_submission_refused_late_is_not_stored(store: JobStore) -> None:
    async def refuse(_writer: object) -> None:
        raise QueueFull(retry_after_s=1)

    job = pending_job()
    with pytest.raises(QueueFull):
        await store.add(job, NO_QUEUE_LIMITS, also=refuse)
    assert await store.get(job.id) is None
    assert (await store.counts())[JobStatus.PENDING] == 0
