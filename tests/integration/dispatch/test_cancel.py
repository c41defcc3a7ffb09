"""Cancelling jobs, with real worker processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.jobs.job import JobStatus
from tests.integration.conftest import PoolMaker
from tests.integration.dispatch.conftest import open_backend


@pytest.mark.parametrize(("title", "deaths"), [("hang", 0), ("deaf", 1)])
async def test_cancel_of_running_job_leaves_no_file(
    stand_in_pool: PoolMaker, data: Path, title: str, deaths: int
) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job_id = await backend.add(title)
        await backend.started(job_id)
        await backend.dispatcher.cancel(job_id)
        assert pool.workers[0].deaths == deaths, "only a worker that ignores the cancel is killed"
        job = await backend.job(job_id)
        assert job.was_cancelled and job.status is JobStatus.FAILED
        assert backend.files_of(job_id) == []


async def test_queued_job_is_cancelled_immediately(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool(attempts_per_worker=1) as pool, open_backend(data, pool) as backend:
        first = await backend.add("hang")
        await backend.until(first, JobStatus.PROCESSING)
        queued = await backend.add("fine")
        job = await backend.dispatcher.cancel(queued)
        assert job is not None and job.was_cancelled
        assert backend.files_of(queued) == []
        assert (await backend.job(first)).status is JobStatus.PROCESSING


async def test_cancel_of_finished_job_changes_nothing(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job_id = await backend.add("fine")
        before = await backend.finished(job_id)
        assert await backend.dispatcher.cancel(job_id) is None
        assert await backend.job(job_id) == before


async def test_recovered_job_cancelled_while_waiting_never_starts(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool(attempts_per_worker=3) as pool, open_backend(data, pool) as backend:
        jobs = [await backend.add("hang", owner=f"user {number}") for number in range(3)]
        for job_id in jobs:
            await backend.until(job_id, JobStatus.PROCESSING)
    async with stand_in_pool(attempts_per_worker=1) as pool, open_backend(data, pool) as backend:
        async with asyncio.timeout(60):
            while not any(backend.progress.get(job_id) for job_id in jobs):
                await asyncio.sleep(0.01)
        waiting = next(job_id for job_id in jobs if backend.progress.get(job_id) is None)
        job = await backend.dispatcher.cancel(waiting)
        assert job is not None and job.was_cancelled
        for job_id in jobs:
            if job_id != waiting:
                await backend.dispatcher.cancel(job_id)
        await backend.finished(await backend.add("fine"))  # the slot is free, and nothing else waits
        assert backend.progress.get(waiting) is None and backend.files_of(waiting) == []


async def test_second_cancel_does_not_disturb_the_first(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job_id = await backend.add("deaf")
        await backend.started(job_id)
        first = asyncio.create_task(backend.dispatcher.cancel(job_id))
        await asyncio.sleep(0.1)
        await backend.dispatcher.cancel(job_id)
        await first
        assert pool.workers[0].deaths == 1, "the worker that ignored the cancel was killed"
        assert backend.files_of(job_id) == []


async def test_job_cancelled_in_the_queue_gives_its_place_back(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool(attempts_per_worker=1) as pool, open_backend(data, pool) as backend:
        running, waiting = await backend.add("hang"), await backend.add("fine")
        await backend.until(running, JobStatus.PROCESSING)
        assert await backend.spent() == 2
        await backend.dispatcher.cancel(waiting)
        assert await backend.spent() == 1
