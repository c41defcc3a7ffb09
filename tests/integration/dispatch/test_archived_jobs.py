"""Archived jobs are found, listed and smaller."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from engine.database.job_search import find_jobs
from engine.jobs.entity import new_job_id
from engine.jobs.job import JobStatus
from tests.fixtures.jobs import NO_QUEUE_LIMITS, pending_job
from tests.fixtures.sweep_case import SweepCase


async def test_jobs_around_end_of_month_are_found_by_id(case: SweepCase) -> None:
    case.clock.at = datetime(2026, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    before = await case.completed("a")
    case.clock.move(seconds=0.001)
    after = await case.completed("b")
    # An id created just before midnight for a job accepted just after.
    crossing = pending_job("c", at=case.clock(), job_id=new_job_id(case.clock() - timedelta(seconds=5)))
    await case.store.add(crossing, NO_QUEUE_LIMITS)
    failed = await case.store.fail(crossing.id, attempt=None, code="x", message="x.")
    foreign = pending_job("d", at=case.clock(), job_id=str(uuid4()))
    await case.store.add(foreign, NO_QUEUE_LIMITS)
    odd = await case.store.fail(foreign.id, attempt=None, code="x", message="x.")
    case.clock.move(days=60)
    assert (await case.sweeper.sweep()).archived == 4
    assert case.store.archive.months() == ["2026-12", "2027-01"]
    for job in (before, after, failed, odd):
        assert job is not None and await case.store.get(job.id) == job
        assert not await case.is_hot(job)
        assert await case.store.ids_by_owner(job.owner) == [job.id]


async def test_archived_rows_are_smaller(case: SweepCase) -> None:
    job = await case.completed()
    case.clock.move(days=31)
    await case.sweeper.sweep()
    path = case.root / "archive" / "2026-11.sqlite3"
    packed = await asyncio.to_thread(lambda: path.read_bytes())
    assert b"vocals" not in packed, "the metadata is not compressed"
    assert await case.store.get(job.id) == job


async def test_archived_job_is_listed_after_newer_ones(case: SweepCase) -> None:
    old = await case.completed()
    case.clock.move(days=31)
    await case.sweeper.sweep()
    new = await case.completed()
    assert await case.store.list_by_owner("discord:1", limit=5) == [new, old]
    assert await case.store.list_by_owner("discord:1", limit=1) == [new]
    assert await case.store.list_by_owner("discord:1", limit=5, active_only=True) == []


async def test_pages_of_a_list_go_on_in_the_archive(case: SweepCase) -> None:
    jobs = []
    for _ in range(3):  # months; the last one is not archived
        for _ in range(2):
            jobs.append(await case.completed())
            case.clock.move(days=1)
        case.clock.move(days=15)
    await case.sweeper.sweep()
    newest_first = list(reversed(jobs))
    assert len(case.store.archive.months()) == 2
    for limit in (1, 2, 3, 7):
        pages = [await case.store.list_by_owner("discord:1", limit=limit, offset=at) for at in range(0, 8, limit)]
        assert [job.id for page in pages for job in page] == [job.id for job in newest_first]


async def test_archived_job_is_found_by_its_title(case: SweepCase) -> None:
    old = await case.completed(title="Über Nacht")
    case.clock.move(days=31)
    await case.sweeper.sweep()
    new = await case.completed(title="über Tag")
    assert await find_jobs(case.store, "discord:1", "ÜBER", limit=5) == [new, old]
    assert await find_jobs(case.store, "discord:1", "über", limit=1) == [new]
    assert await find_jobs(case.store, "discord:1", "nacht", limit=5) == [old]
    assert await find_jobs(case.store, "discord:2", "über", limit=5) == []


async def test_more_rows_than_a_batch_are_archived(case: SweepCase) -> None:
    for _ in range(1203):
        job = pending_job(at=case.clock())
        await case.store.add(job, NO_QUEUE_LIMITS)
    await case.store.database.run("UPDATE jobs SET status = 'failed', error = 'x'")
    assert (await case.store.counts())[JobStatus.FAILED] == 1203
    case.clock.move(days=8)
    assert (await case.sweeper.sweep()).archived == 1203
    assert sum((await case.store.counts()).values()) == 0


async def test_archived_result_is_looked_up_once(case: SweepCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the look-ups: in object storage each is a request."""
    job, lookups, has_result = await case.completed(), list[str](), case.storage.has_result

    def has_result_counted(job_id: str) -> bool:
        lookups.append(job_id)
        return has_result(job_id)

    monkeypatch.setattr(case.storage, "has_result", has_result_counted)
    case.clock.move(days=31)
    for _ in range(3):
        await case.sweeper.sweep()
    assert lookups == [job.id]
    case.clock.move(days=60)
    assert (await case.sweeper.sweep()).results_removed == 1
