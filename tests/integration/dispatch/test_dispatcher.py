"""The dispatcher with the real store, real files and real worker processes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import SourceUnreachable
from engine.jobs.job import Job, JobStatus
from engine.sources.fetch import FetchedInput
from tests.integration.conftest import PoolMaker
from tests.integration.dispatch.conftest import open_backend


async def test_completed_job_leaves_only_its_result(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job_id = await backend.add("steps")
        job = await backend.finished(job_id)
        assert job.status is JobStatus.COMPLETED and job.attempt == 1 and job.progress == 100
        assert backend.files_of(job_id) == [f"jobs/{job_id}/a1/vocals.wav"]


async def test_job_is_retried_after_worker_death(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job_id = await backend.add("die once")
        job = await backend.finished(job_id)
        assert job.status is JobStatus.COMPLETED and job.attempt == 2
        assert backend.files_of(job_id) == [f"jobs/{job_id}/a2/vocals.wav"]


async def test_job_fails_after_third_attempt(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job_id = await backend.add("die")
        job = await backend.finished(job_id)
        assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 3, "worker_died")
        assert job.error is not None and "3 times" in job.error
        assert backend.files_of(job_id) == [f"jobs/{job_id}/input"], "the input stays for Retry"


async def test_permanent_error_is_not_retried(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job = await backend.finished(await backend.add("fail broken_audio"))
        assert (job.status, job.attempt, job.error) == (JobStatus.FAILED, 1, "It failed, as asked.")


async def test_out_of_memory_is_retried_alone(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job_id = await backend.add("fail once out_of_memory")
        await backend.until(job_id, JobStatus.PROCESSING)
        neighbours: set[int] = set()
        await backend.add("slow 1.0", owner="somebody")
        alone = pool.workers[0].run

        async def watched(*args: object, alone_: object = alone, **how: object) -> object:
            if args[0].title.startswith("fail") and args[0].attempt == 2:  # type: ignore[attr-defined]
                neighbours.add(pool.workers[0].attempts)
                assert how["exclusive"]
            return await alone(*args, **how)  # type: ignore[arg-type]

        pool.workers[0].run = watched  # type: ignore[method-assign, assignment]
        job = await backend.finished(job_id)
        assert (job.status, job.attempt) == (JobStatus.COMPLETED, 2)
        assert neighbours == {0}


async def test_cpu_fallback_does_not_update_speed(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job_id = await backend.add("on cpu 0.3")
        async with asyncio.timeout(60):
            while (live := backend.progress.get(job_id)) is None or not live.on_cpu:
                await asyncio.sleep(0.01)
        assert (await backend.finished(job_id)).status is JobStatus.COMPLETED
        assert await backend.store.speeds.get("mini", "balanced", "stand-in") is None
        await backend.finished(await backend.add("fine"))
        assert await backend.store.speeds.get("mini", "balanced", "stand-in") is not None


async def test_crashing_job_does_not_fail_its_neighbours(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        neighbours = [await backend.add("slow 0.3", owner=f"user {number}") for number in range(2)]
        bad = await backend.add("die", owner="bad")
        assert (await backend.finished(bad)).status is JobStatus.FAILED
        for job_id in neighbours:
            job = await backend.finished(job_id)
            assert job.status is JobStatus.COMPLETED
            assert job.attempt <= 2, "only the first death, before the job runs alone, may hit a neighbour"


async def test_heavy_user_does_not_delay_light_users(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool(attempts_per_worker=1) as pool, open_backend(data, pool) as backend:
        heavy = [await backend.add("slow 0.1", owner="heavy") for _ in range(8)]
        light = [await backend.add("slow 0.1", owner=f"light {number}") for number in range(3)]
        ended = {job_id: (await backend.finished(job_id)).updated_at for job_id in heavy + light}
        order = sorted(ended, key=lambda job_id: ended[job_id])
        assert all(order.index(job_id) <= 4 for job_id in light), (
            "each light user goes before the third job of the heavy one"
        )


async def test_unreachable_link_is_tried_three_times(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job = await backend.finished(await backend.add("a link", link=True))
        assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 3, "source_unreachable")


async def test_fetched_link_sets_title_and_artist(stand_in_pool: PoolMaker, data: Path) -> None:
    async def fetch(job: Job, on_progress: Callable[[float], None]) -> FetchedInput:
        path = data / "jobs" / job.id / "input"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"fetched")
        on_progress(1.0)
        return FetchedInput(title="fine", artist="Band", size_bytes=7, duration_s=1.0)

    async with stand_in_pool() as pool, open_backend(data, pool, fetch) as backend:
        job = await backend.finished(await backend.add("a link", link=True))
        assert (job.status, job.title, job.artist, job.input_size) == (JobStatus.COMPLETED, "fine", "Band", 7)


async def test_fetch_does_not_occupy_worker(stand_in_pool: PoolMaker, data: Path) -> None:
    waiting = asyncio.Event()

    async def fetch(job: Job, on_progress: Callable[[float], None]) -> FetchedInput:
        await waiting.wait()
        raise SourceUnreachable

    async with stand_in_pool(attempts_per_worker=1) as pool, open_backend(data, pool, fetch) as backend:
        links = [await backend.add("a link", owner=f"user {number}", link=True) for number in range(4)]
        for link in links:
            await backend.until(link, JobStatus.PROCESSING)
        assert (await backend.finished(await backend.add("fine", owner="other"))).status is JobStatus.COMPLETED
        assert (await backend.job(links[0])).status is JobStatus.PROCESSING


async def test_progress_never_decreases_over_attempts(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        seen: list[int] = []

        def record(job_id: str) -> None:
            live = backend.progress.get(job_id)
            if live is not None:
                seen.append(live.progress)

        backend.progress.subscribe(record)
        await backend.finished(await backend.add("die once"))
        assert seen == sorted(seen) and seen[-1] > 0


async def test_store_failure_at_job_end_only_delays_it(
    stand_in_pool: PoolMaker, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.dispatch.runner._STORE_PAUSES_S", (0.05,))
    monkeypatch.setattr("engine.dispatch.dispatcher._STORE_RETRY_S", 0.1)
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        lock = sqlite3.connect(data / "stemify.sqlite3", isolation_level=None)
        backend.store.database._busy_limit_s = 0.1
        await backend.store.database._writer.execute("PRAGMA busy_timeout = 50")
        job_id = await backend.add("slow 0.3")
        await backend.until(job_id, JobStatus.PROCESSING)
        lock.execute("BEGIN EXCLUSIVE")
        async with asyncio.timeout(60):
            while "could not store the outcome of a job" not in caplog.text:
                await asyncio.sleep(0.01)
        lock.execute("COMMIT")
        lock.close()
        assert (await backend.finished(job_id)).status is JobStatus.COMPLETED


async def test_job_that_never_separated_gives_its_place_back(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        failed = await backend.finished(await backend.add("a link", link=True))
        assert failed.error_code == "source_unreachable" and await backend.spent() == 0
        failed = await backend.finished(await backend.add("fail soundless_model"))
        assert failed.status is JobStatus.FAILED and await backend.spent() == 1, "it reached the separation"
        await backend.finished(await backend.add("fine"))
        assert await backend.spent() == 2


async def test_kept_input_stays_with_its_result(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool, keep_inputs=True) as backend:
        job_id = await backend.add("fine")
        await backend.finished(job_id)
        assert backend.files_of(job_id) == [f"jobs/{job_id}/a1/vocals.wav", f"jobs/{job_id}/input"]
        await backend.dispatcher._runner.cleanup.clear_lost_attempt(job_id)
        assert backend.files_of(job_id) == [f"jobs/{job_id}/a1/vocals.wav", f"jobs/{job_id}/input"]
