"""The dispatcher with the real store, real files and real worker processes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from config.settings import load
from engine.database.job_store import JobStore
from engine.database.queue_limits import Caps
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.progress import ProgressTracker
from engine.dispatch.runner import JobRunner
from engine.errors import SourceUnreachable
from engine.jobs.entity import new_job_id
from engine.jobs.job import InputType, Job, JobStatus
from engine.jobs.options import StemSeparationOptions
from engine.pool.pool import WorkerPool
from engine.sources.fetch import FetchedInput, FetchLink
from engine.storage.local import Storage
from tests.integration.conftest import LIMITS as POOL_LIMITS
from tests.integration.conftest import PoolMaker

WORKERS = load().workers.model_copy(update={"max_attempts": 3, "short_timeout_s": 30, "long_timeout_s": 60})
CAPS = Caps(per_owner=1000, per_scope=1000, total=1000)


async def no_links(job: Job, on_progress: Callable[[float], None]) -> FetchedInput:
    raise SourceUnreachable


class House:
    """A store, a pool and a dispatcher on one data folder."""

    def __init__(self, store: JobStore, storage: Storage, dispatcher: Dispatcher, live: ProgressTracker) -> None:
        self.store, self.storage, self.dispatcher, self.live = store, storage, dispatcher, live

    async def add(self, title: str, *, owner: str = "local", link: bool = False) -> str:
        job_id, now = new_job_id(), datetime.now(UTC)
        source = "https://www.youtube.com/watch?v=dQw4w9WgXcQ"
        if not link:
            source = f"jobs/{job_id}/input"
            path = self.storage.local_path(source)
            path.parent.mkdir(parents=True)
            path.write_bytes(b"a song")
            await self.storage.upload(source)
        await self.store.add(
            Job(
                id=job_id, status=JobStatus.PENDING, created_at=now, updated_at=now, input_source=source,
                input_type=InputType.YOUTUBE_URL if link else InputType.FILE_UPLOAD, model="mini",
                options=StemSeparationOptions(model="mini"), estimated_duration=1, owner=owner, title=title,
                input_duration=None if link else 1.0,
            ),
            CAPS,
        )  # fmt: skip
        self.dispatcher.wake()
        return job_id

    async def job(self, job_id: str) -> Job:
        job = await self.store.get(job_id)
        assert job is not None
        return job

    async def until(self, job_id: str, *statuses: JobStatus, timeout_s: float = 20) -> Job:
        async with asyncio.timeout(timeout_s):
            while (job := await self.job(job_id)).status not in statuses:
                await asyncio.sleep(0.01)
        return job

    async def over(self, job_id: str) -> Job:
        job = await self.until(job_id, JobStatus.COMPLETED, JobStatus.FAILED)
        async with asyncio.timeout(5):
            while self.live.get(job_id) is not None:
                await asyncio.sleep(0.01)
        return job

    def files_of(self, job_id: str) -> list[str]:
        return sorted(
            str(path.relative_to(self.storage.root))
            for folder in ("jobs", "scratch")
            for path in (self.storage.root / folder).rglob("*")
            if job_id in str(path) and path.is_file()
        )


@asynccontextmanager
async def house_on(
    data: Path,
    pool: WorkerPool,
    fetch_link: FetchLink = no_links,
    grace_s: float = 0.0,
    storage: Storage | None = None,
) -> AsyncIterator[House]:
    store = await JobStore.open(data / "stemify.sqlite3")
    storage, live = storage or Storage(data), ProgressTracker()
    runner = JobRunner(store, storage, pool, fetch_link, WORKERS, 600, live)
    dispatcher = Dispatcher(store, runner, live, data / "handover.json", max_attempts=3)
    pool._on_change = dispatcher.wake
    await dispatcher.start()
    try:
        yield House(store, storage, dispatcher, live)
    finally:
        await dispatcher.stop(grace_s)
        await store.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def test_completed_job_leaves_only_its_result(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        job_id = await house.add("steps")
        job = await house.over(job_id)
        assert job.status is JobStatus.COMPLETED and job.attempt == 1 and job.progress == 100
        assert house.files_of(job_id) == [f"jobs/{job_id}/a1/vocals.wav"]


async def test_a_job_whose_worker_dies_is_tried_again_and_completes(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        job_id = await house.add("die once")
        job = await house.over(job_id)
        assert job.status is JobStatus.COMPLETED and job.attempt == 2
        assert house.files_of(job_id) == [f"jobs/{job_id}/a2/vocals.wav"]


async def test_after_the_third_attempt_a_job_fails_with_a_reason(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        job_id = await house.add("die")
        job = await house.over(job_id)
        assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 3, "worker_died")
        assert job.error is not None and "3 times" in job.error
        assert house.files_of(job_id) == [f"jobs/{job_id}/input"], "the input stays for Retry"


async def test_an_error_that_will_not_pass_is_not_tried_again(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        job = await house.over(await house.add("fail broken_audio"))
        assert (job.status, job.attempt, job.error) == (JobStatus.FAILED, 1, "It failed, as asked.")


async def test_want_of_memory_is_tried_again_without_neighbours(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        job_id = await house.add("fail once out_of_memory")
        await house.until(job_id, JobStatus.PROCESSING)
        company: set[int] = set()
        await house.add("slow 1.0", owner="somebody")
        alone = pool.workers[0].run

        async def watched(*args: object, alone_: object = alone, **how: object) -> object:
            if args[0].title.startswith("fail") and args[0].attempt == 2:  # type: ignore[attr-defined]
                company.add(pool.workers[0].attempts)
                assert how["alone"]
            return await alone(*args, **how)  # type: ignore[arg-type]

        pool.workers[0].run = watched  # type: ignore[method-assign, assignment]
        job = await house.over(job_id)
        assert (job.status, job.attempt) == (JobStatus.COMPLETED, 2)
        assert company == {0}


async def test_cpu_fallback_does_not_update_speed(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        job_id = await house.add("on cpu 0.3")
        async with asyncio.timeout(10):
            while (live := house.live.get(job_id)) is None or not live.on_cpu:
                await asyncio.sleep(0.01)
        assert (await house.over(job_id)).status is JobStatus.COMPLETED
        assert await house.store.speed("mini", "balanced", "stand-in") is None
        await house.over(await house.add("fine"))
        assert await house.store.speed("mini", "balanced", "stand-in") is not None


async def test_a_crashing_job_does_not_take_its_neighbours_down(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        neighbours = [await house.add("slow 0.3", owner=f"user {number}") for number in range(2)]
        bad = await house.add("die", owner="bad")
        assert (await house.over(bad)).status is JobStatus.FAILED
        for job_id in neighbours:
            job = await house.over(job_id)
            assert job.status is JobStatus.COMPLETED
            assert job.attempt <= 2, "only the first death, when nobody was suspected yet, may hit a neighbour"


@pytest.mark.parametrize("title", ["hang", "deaf"])
async def test_cancel_of_running_job_leaves_no_file(stand_in_pool: PoolMaker, data: Path, title: str) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        job_id = await house.add(title)
        await house.until(job_id, JobStatus.PROCESSING)
        await asyncio.sleep(0.1)
        started = time.monotonic()
        await house.dispatcher.cancel(job_id)
        assert time.monotonic() - started < 2
        job = await house.job(job_id)
        assert job.was_cancelled and job.status is JobStatus.FAILED
        assert house.files_of(job_id) == []


async def test_a_queued_job_is_cancelled_at_once(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool(attempts_per_worker=1) as pool, house_on(data, pool) as house:
        first = await house.add("hang")
        await house.until(first, JobStatus.PROCESSING)
        queued = await house.add("fine")
        job = await house.dispatcher.cancel(queued)
        assert job is not None and job.was_cancelled
        assert house.files_of(queued) == []
        assert (await house.job(first)).status is JobStatus.PROCESSING


async def test_cancelling_a_finished_job_changes_nothing(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        job_id = await house.add("fine")
        before = await house.over(job_id)
        assert await house.dispatcher.cancel(job_id) is None
        assert await house.job(job_id) == before


async def test_running_jobs_are_recovered_at_start(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        async with house_on(data, pool) as house:
            job_id = await house.add("slow 0.5")
            await house.until(job_id, JobStatus.PROCESSING)
            await asyncio.sleep(0.05)
        (data / "handover.json").unlink()  # a process that crashes leaves none
        async with house_on(data, pool) as house:
            job = await house.over(job_id)
            assert job.status is JobStatus.COMPLETED and job.attempt == 2
            assert house.files_of(job_id) == [f"jobs/{job_id}/a2/vocals.wav"]


async def test_node_lost_before_worker_start_costs_no_attempt(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        async with house_on(data, pool) as house:
            job_id = await house.add("slow 0.5")
            await house.until(job_id, JobStatus.PROCESSING)
            await asyncio.sleep(0.05)
        (data / "handover.json").unlink()
        no_worker_yet = WorkerPool([], POOL_LIMITS)
        for _ in range(4):
            async with house_on(data, no_worker_yet) as house:
                await asyncio.sleep(0.05)
                assert (await house.job(job_id)).attempt == 1
            assert not (data / "handover.json").exists()
        async with house_on(data, pool) as house:
            job = await house.over(job_id)
            assert job.status is JobStatus.COMPLETED and job.attempt == 2


async def test_an_orderly_restart_costs_no_attempt(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        job_id = ""
        for _ in range(4):
            async with house_on(data, pool) as house:
                job_id = job_id or await house.add("hang")
                await house.until(job_id, JobStatus.PROCESSING)
                await asyncio.sleep(0.05)
        assert not list(data.glob("scratch/*"))
        async with house_on(data, pool) as house:
            job = await house.job(job_id)
            assert (job.status, job.attempt) == (JobStatus.PROCESSING, 1)


async def test_restart_before_last_attempt_keeps_it(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        async with house_on(data, pool) as house:
            job_id = await house.add("fail worker_stalled")
            async with asyncio.timeout(20):
                while (await house.job(job_id)).attempt < 3:
                    await asyncio.sleep(0.01)
        assert (await asyncio.to_thread((data / "handover.json").read_text)) == f'{{"{job_id}": 3}}'
        async with house_on(data, pool) as house:
            job = await house.over(job_id)
            assert job.error is not None and job.error.startswith("It failed, as asked."), "it was made"


async def test_job_interrupted_three_times_fails_with_reason(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        job_id = ""
        for _ in range(3):
            async with house_on(data, pool) as house:
                job_id = job_id or await house.add("hang")
                await house.until(job_id, JobStatus.PROCESSING)
                await asyncio.sleep(0.05)
            (data / "handover.json").unlink()  # a process that crashes leaves none
        async with house_on(data, pool) as house:
            job = await house.over(job_id)
            assert job.status is JobStatus.FAILED and job.error is not None and "interrupted 3 times" in job.error


async def test_running_jobs_may_end_within_the_grace_period(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        async with house_on(data, pool, grace_s=5.0) as house:
            job_id = await house.add("slow 0.3")
            await house.until(job_id, JobStatus.PROCESSING)
        async with house_on(data, pool) as house:
            job = await house.job(job_id)
            assert job.status is JobStatus.COMPLETED and job.attempt == 1


async def test_claim_during_shutdown_is_not_lost(
    stand_in_pool: PoolMaker, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        await asyncio.sleep(0.1)  # its first look round is over
        with monkeypatch.context() as asleep:
            asleep.setattr(house.dispatcher, "wake", lambda: None)
            job_id = await house.add("slow 0.3")
        assert (await house.job(job_id)).status is JobStatus.PENDING
        async with house.store.database._writing:  # the store is busy with others: the claim waits
            house.dispatcher.wake()
            await asyncio.sleep(0.05)
            stopping = asyncio.create_task(house.dispatcher.stop(20.0))
            await asyncio.sleep(0.05)
        await stopping
        job = await house.job(job_id)
        assert (job.status, job.attempt) == (JobStatus.COMPLETED, 1)


async def test_a_heavy_user_does_not_hold_up_the_light_ones(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool(attempts_per_worker=1) as pool, house_on(data, pool) as house:
        heavy = [await house.add("slow 0.1", owner="heavy") for _ in range(8)]
        light = [await house.add("slow 0.1", owner=f"light {number}") for number in range(3)]
        ended = {job_id: (await house.over(job_id)).updated_at for job_id in heavy + light}
        order = sorted(ended, key=lambda job_id: ended[job_id])
        assert all(order.index(job_id) <= 4 for job_id in light), "each gets a turn before the second or third of heavy"


async def test_a_link_that_cannot_be_reached_is_tried_three_times(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        job = await house.over(await house.add("a link", link=True))
        assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 3, "source_unreachable")


async def test_a_fetched_link_is_separated_under_its_title(stand_in_pool: PoolMaker, data: Path) -> None:
    async def fetch(job: Job, on_progress: Callable[[float], None]) -> FetchedInput:
        path = data / "jobs" / job.id / "input"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"fetched")
        on_progress(1.0)
        return FetchedInput(title="fine", artist="Band", size_bytes=7, duration_s=1.0)

    async with stand_in_pool() as pool, house_on(data, pool, fetch) as house:
        job = await house.over(await house.add("a link", link=True))
        assert (job.status, job.title, job.artist, job.input_size) == (JobStatus.COMPLETED, "fine", "Band", 7)


async def test_a_fetch_does_not_occupy_a_worker(stand_in_pool: PoolMaker, data: Path) -> None:
    waiting = asyncio.Event()

    async def fetch(job: Job, on_progress: Callable[[float], None]) -> FetchedInput:
        await waiting.wait()
        raise SourceUnreachable

    async with stand_in_pool(attempts_per_worker=1) as pool, house_on(data, pool, fetch) as house:
        links = [await house.add("a link", owner=f"user {number}", link=True) for number in range(4)]
        for link in links:
            await house.until(link, JobStatus.PROCESSING)
        assert (await house.over(await house.add("fine", owner="other"))).status is JobStatus.COMPLETED
        assert (await house.job(links[0])).status is JobStatus.PROCESSING


async def test_progress_is_told_and_never_goes_back_over_attempts(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        seen: list[int] = []

        def look(job_id: str) -> None:
            live = house.live.get(job_id)
            if live is not None:
                seen.append(live.progress)

        house.live.subscribe(look)
        await house.over(await house.add("die once"))
        assert seen == sorted(seen) and seen[-1] > 0


async def test_store_failure_at_job_end_only_delays_it(
    stand_in_pool: PoolMaker, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.dispatch.runner._STORE_PAUSES_S", (0.05,))
    monkeypatch.setattr("engine.dispatch.dispatcher._STORE_RETRY_S", 0.1)
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        lock = sqlite3.connect(data / "stemify.sqlite3", isolation_level=None)
        house.store.database._busy_limit_s = 0.1
        for connection in (house.store.database._writer,):
            await connection.execute("PRAGMA busy_timeout = 50")
        job_id = await house.add("slow 0.3")
        await house.until(job_id, JobStatus.PROCESSING)
        lock.execute("BEGIN EXCLUSIVE")
        await asyncio.sleep(1.5)
        lock.execute("COMMIT")
        lock.close()
        assert (await house.over(job_id)).status is JobStatus.COMPLETED


async def test_recovered_job_cancelled_while_waiting_never_starts(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool(attempts_per_worker=3) as pool, house_on(data, pool) as house:
        jobs = [await house.add("hang", owner=f"user {number}") for number in range(3)]
        for job_id in jobs:
            await house.until(job_id, JobStatus.PROCESSING)
    async with stand_in_pool(attempts_per_worker=1) as pool, house_on(data, pool) as house:
        await asyncio.sleep(0.2)
        waiting = next(job_id for job_id in jobs if house.live.get(job_id) is None)
        job = await house.dispatcher.cancel(waiting)
        assert job is not None and job.was_cancelled
        for job_id in jobs:
            if job_id != waiting:
                await house.dispatcher.cancel(job_id)
        await asyncio.sleep(0.3)
        assert house.live.get(waiting) is None and house.files_of(waiting) == []


async def test_a_second_press_on_cancel_does_not_disturb_the_first(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, house_on(data, pool) as house:
        job_id = await house.add("deaf")
        await house.until(job_id, JobStatus.PROCESSING)
        await asyncio.sleep(0.1)
        first = asyncio.create_task(house.dispatcher.cancel(job_id))
        await asyncio.sleep(0.1)
        await house.dispatcher.cancel(job_id)
        await first
        assert pool.workers[0].deaths == 1, "the worker that did not let go was killed"
        assert house.files_of(job_id) == []
