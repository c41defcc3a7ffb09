"""Jobs over restarts of the dispatcher, with real worker processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.jobs.job import JobStatus
from engine.pool.pool import WorkerPool
from tests.integration.conftest import LIMITS as POOL_LIMITS
from tests.integration.conftest import PoolMaker
from tests.integration.dispatch.conftest import open_backend


async def test_running_jobs_are_recovered_at_start(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        async with open_backend(data, pool) as backend:
            job_id = await backend.add("slow 0.5")
            await backend.started(job_id)
        (data / "handover.json").unlink()  # a process that crashes leaves none
        async with open_backend(data, pool) as backend:
            job = await backend.finished(job_id)
            assert job.status is JobStatus.COMPLETED and job.attempt == 2
            assert backend.files_of(job_id) == [f"jobs/{job_id}/a2/vocals.wav"]


async def test_crashes_before_worker_start_use_no_attempts(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        async with open_backend(data, pool) as backend:
            job_id = await backend.add("slow 0.5")
            await backend.started(job_id)
        (data / "handover.json").unlink()
        no_worker_yet = WorkerPool([], POOL_LIMITS)
        for _ in range(4):
            async with open_backend(data, no_worker_yet) as backend:
                await asyncio.sleep(0.05)
                assert (await backend.job(job_id)).attempt == 1
            assert not (data / "handover.json").exists()
        async with open_backend(data, pool) as backend:
            job = await backend.finished(job_id)
            assert job.status is JobStatus.COMPLETED and job.attempt == 2


async def test_orderly_restart_uses_no_attempt(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        job_id = ""
        for _ in range(4):
            async with open_backend(data, pool) as backend:
                job_id = job_id or await backend.add("hang")
                await backend.started(job_id)
        assert not list(data.glob("scratch/*"))
        async with open_backend(data, pool) as backend:
            job = await backend.job(job_id)
            assert (job.status, job.attempt) == (JobStatus.PROCESSING, 1)


async def test_restart_before_last_attempt_keeps_it(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        async with open_backend(data, pool) as backend:
            job_id = await backend.add("fail worker_stalled")
            async with asyncio.timeout(60):
                while (await backend.job(job_id)).attempt < 3:
                    await asyncio.sleep(0.01)
        assert (await asyncio.to_thread((data / "handover.json").read_text)) == f'{{"{job_id}": 3}}'
        async with open_backend(data, pool) as backend:
            job = await backend.finished(job_id)
            assert job.error is not None and job.error.startswith("It failed, as asked."), "the third attempt was made"


async def test_job_interrupted_three_times_fails_with_reason(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        job_id = ""
        for _ in range(3):
            async with open_backend(data, pool) as backend:
                job_id = job_id or await backend.add("hang")
                await backend.started(job_id)
            (data / "handover.json").unlink()  # a process that crashes leaves none
        async with open_backend(data, pool) as backend:
            job = await backend.finished(job_id)
            assert job.status is JobStatus.FAILED and job.error is not None and "interrupted 3 times" in job.error


async def test_running_job_completes_within_grace_period(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        async with open_backend(data, pool, grace_s=5.0) as backend:
            job_id = await backend.add("slow 0.3")
            await backend.until(job_id, JobStatus.PROCESSING)
        async with open_backend(data, pool) as backend:
            job = await backend.job(job_id)
            assert job.status is JobStatus.COMPLETED and job.attempt == 1


async def test_claim_during_shutdown_is_not_lost(
    stand_in_pool: PoolMaker, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        await asyncio.sleep(0.1)  # until the first claim has found nothing
        with monkeypatch.context() as patched:
            patched.setattr(backend.dispatcher, "wake", lambda: None)
            job_id = await backend.add("slow 0.3")
        assert (await backend.job(job_id)).status is JobStatus.PENDING
        async with backend.store.database._writing:  # the claim has to wait for the database
            backend.dispatcher.wake()
            await asyncio.sleep(0.05)
            stopping = asyncio.create_task(backend.dispatcher.stop(20.0))
            await asyncio.sleep(0.05)
        await stopping
        job = await backend.job(job_id)
        assert (job.status, job.attempt) == (JobStatus.COMPLETED, 1)
