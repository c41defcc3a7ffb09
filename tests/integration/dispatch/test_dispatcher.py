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
from engine.database.queue_limits import QueueLimits
from engine.database.quota import Quota
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.progress import ProgressTracker
from engine.dispatch.runner import JobRunner
from engine.errors import SourceUnreachable
from engine.jobs.entity import new_job_id
from engine.jobs.job import InputType, Job, JobStatus
from engine.jobs.options import StemSeparationOptions
from engine.pool.pool import WorkerPool
from engine.sources.fetch import FetchedInput, FetchLink
from engine.storage.local import LocalStorage
from engine.storage.storage import Storage
from tests.integration.conftest import LIMITS as POOL_LIMITS
from tests.integration.conftest import PoolMaker

WORKERS = load().workers.model_copy(update={"max_attempts": 3, "short_timeout_s": 30, "long_timeout_s": 60})
QUEUE_LIMITS = QueueLimits(per_owner=1000, per_scope=1000, total=1000)


async def no_links(job: Job, on_progress: Callable[[float], None]) -> FetchedInput:
    raise SourceUnreachable


class Backend:
    """A store, a pool and a dispatcher on one data folder."""

    def __init__(self, store: JobStore, storage: Storage, dispatcher: Dispatcher, progress: ProgressTracker) -> None:
        self.store, self.storage, self.dispatcher, self.progress = store, storage, dispatcher, progress
        self.quota = Quota(store.database, per_hour=1000)

    async def spent(self, owner: str = "local") -> int:
        allowance = await self.quota.allowance(owner)
        assert allowance is not None
        return allowance.per_hour - allowance.left

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
            QUEUE_LIMITS, also=self.quota.spend_in(owner, job_id),
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

    async def finished(self, job_id: str) -> Job:
        job = await self.until(job_id, JobStatus.COMPLETED, JobStatus.FAILED)
        async with asyncio.timeout(5):
            while self.progress.get(job_id) is not None:
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
async def open_backend(
    data: Path,
    pool: WorkerPool,
    fetch_link: FetchLink = no_links,
    grace_s: float = 0.0,
    storage: Storage | None = None,
    keep_inputs: bool = False,
) -> AsyncIterator[Backend]:
    store = await JobStore.open(data / "stemify.sqlite3")
    storage, progress = storage or LocalStorage(data), ProgressTracker()
    quota = Quota(store.database, per_hour=5)
    runner = JobRunner(store, storage, pool, fetch_link, WORKERS, 600, progress, quota, keep_inputs=keep_inputs)
    dispatcher = Dispatcher(store, runner, progress, data / "handover.json", max_attempts=3)
    pool._on_change = dispatcher.wake
    await dispatcher.start()
    try:
        yield Backend(store, storage, dispatcher, progress)
    finally:
        await dispatcher.stop(grace_s)
        await store.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


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
        async with asyncio.timeout(10):
            while (live := backend.progress.get(job_id)) is None or not live.on_cpu:
                await asyncio.sleep(0.01)
        assert (await backend.finished(job_id)).status is JobStatus.COMPLETED
        assert await backend.store.speed("mini", "balanced", "stand-in") is None
        await backend.finished(await backend.add("fine"))
        assert await backend.store.speed("mini", "balanced", "stand-in") is not None


async def test_crashing_job_does_not_fail_its_neighbours(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        neighbours = [await backend.add("slow 0.3", owner=f"user {number}") for number in range(2)]
        bad = await backend.add("die", owner="bad")
        assert (await backend.finished(bad)).status is JobStatus.FAILED
        for job_id in neighbours:
            job = await backend.finished(job_id)
            assert job.status is JobStatus.COMPLETED
            assert job.attempt <= 2, "only the first death, before the job runs alone, may hit a neighbour"


@pytest.mark.parametrize("title", ["hang", "deaf"])
async def test_cancel_of_running_job_leaves_no_file(stand_in_pool: PoolMaker, data: Path, title: str) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job_id = await backend.add(title)
        await backend.until(job_id, JobStatus.PROCESSING)
        await asyncio.sleep(0.1)
        started = time.monotonic()
        await backend.dispatcher.cancel(job_id)
        assert time.monotonic() - started < 2
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


async def test_running_jobs_are_recovered_at_start(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        async with open_backend(data, pool) as backend:
            job_id = await backend.add("slow 0.5")
            await backend.until(job_id, JobStatus.PROCESSING)
            await asyncio.sleep(0.05)
        (data / "handover.json").unlink()  # a process that crashes leaves none
        async with open_backend(data, pool) as backend:
            job = await backend.finished(job_id)
            assert job.status is JobStatus.COMPLETED and job.attempt == 2
            assert backend.files_of(job_id) == [f"jobs/{job_id}/a2/vocals.wav"]


async def test_crashes_before_worker_start_use_no_attempts(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        async with open_backend(data, pool) as backend:
            job_id = await backend.add("slow 0.5")
            await backend.until(job_id, JobStatus.PROCESSING)
            await asyncio.sleep(0.05)
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
                await backend.until(job_id, JobStatus.PROCESSING)
                await asyncio.sleep(0.05)
        assert not list(data.glob("scratch/*"))
        async with open_backend(data, pool) as backend:
            job = await backend.job(job_id)
            assert (job.status, job.attempt) == (JobStatus.PROCESSING, 1)


async def test_restart_before_last_attempt_keeps_it(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool:
        async with open_backend(data, pool) as backend:
            job_id = await backend.add("fail worker_stalled")
            async with asyncio.timeout(20):
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
                await backend.until(job_id, JobStatus.PROCESSING)
                await asyncio.sleep(0.05)
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
    stand_in_pool: PoolMaker, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.dispatch.runner._STORE_PAUSES_S", (0.05,))
    monkeypatch.setattr("engine.dispatch.dispatcher._STORE_RETRY_S", 0.1)
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        lock = sqlite3.connect(data / "stemify.sqlite3", isolation_level=None)
        backend.store.database._busy_limit_s = 0.1
        for connection in (backend.store.database._writer,):
            await connection.execute("PRAGMA busy_timeout = 50")
        job_id = await backend.add("slow 0.3")
        await backend.until(job_id, JobStatus.PROCESSING)
        lock.execute("BEGIN EXCLUSIVE")
        await asyncio.sleep(1.5)
        lock.execute("COMMIT")
        lock.close()
        assert (await backend.finished(job_id)).status is JobStatus.COMPLETED


async def test_recovered_job_cancelled_while_waiting_never_starts(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool(attempts_per_worker=3) as pool, open_backend(data, pool) as backend:
        jobs = [await backend.add("hang", owner=f"user {number}") for number in range(3)]
        for job_id in jobs:
            await backend.until(job_id, JobStatus.PROCESSING)
    async with stand_in_pool(attempts_per_worker=1) as pool, open_backend(data, pool) as backend:
        await asyncio.sleep(0.2)
        waiting = next(job_id for job_id in jobs if backend.progress.get(job_id) is None)
        job = await backend.dispatcher.cancel(waiting)
        assert job is not None and job.was_cancelled
        for job_id in jobs:
            if job_id != waiting:
                await backend.dispatcher.cancel(job_id)
        await asyncio.sleep(0.3)
        assert backend.progress.get(waiting) is None and backend.files_of(waiting) == []


async def test_second_cancel_does_not_disturb_the_first(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        job_id = await backend.add("deaf")
        await backend.until(job_id, JobStatus.PROCESSING)
        await asyncio.sleep(0.1)
        first = asyncio.create_task(backend.dispatcher.cancel(job_id))
        await asyncio.sleep(0.1)
        await backend.dispatcher.cancel(job_id)
        await first
        assert pool.workers[0].deaths == 1, "the worker that ignored the cancel was killed"
        assert backend.files_of(job_id) == []


async def test_job_that_never_separated_gives_its_place_back(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool) as backend:
        failed = await backend.finished(await backend.add("a link", link=True))
        assert failed.error_code == "source_unreachable" and await backend.spent() == 0
        failed = await backend.finished(await backend.add("fail soundless_model"))
        assert failed.status is JobStatus.FAILED and await backend.spent() == 1, "it reached the separation"
        await backend.finished(await backend.add("fine"))
        assert await backend.spent() == 2


async def test_job_cancelled_in_the_queue_gives_its_place_back(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool(attempts_per_worker=1) as pool, open_backend(data, pool) as backend:
        running, waiting = await backend.add("hang"), await backend.add("fine")
        await backend.until(running, JobStatus.PROCESSING)
        assert await backend.spent() == 2
        await backend.dispatcher.cancel(waiting)
        assert await backend.spent() == 1


async def test_kept_input_stays_with_its_result(stand_in_pool: PoolMaker, data: Path) -> None:
    async with stand_in_pool() as pool, open_backend(data, pool, keep_inputs=True) as backend:
        job_id = await backend.add("fine")
        await backend.finished(job_id)
        assert backend.files_of(job_id) == [f"jobs/{job_id}/a1/vocals.wav", f"jobs/{job_id}/input"]
        await backend.dispatcher._runner.cleanup.clear_lost_attempt(job_id)
        assert backend.files_of(job_id) == [f"jobs/{job_id}/a1/vocals.wav", f"jobs/{job_id}/input"]
