"""A store, a dispatcher, a sweeper and real files for the tests of this folder."""

from __future__ import annotations

import asyncio
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
from engine.dispatch.sweeper import Sweeper
from engine.errors import SourceUnreachable
from engine.jobs.entity import new_job_id
from engine.jobs.job import InputType, Job, JobStatus
from engine.jobs.options import StemSeparationOptions
from engine.pool.pool import WorkerPool
from engine.sources.fetch import FetchedInput, FetchLink
from engine.storage.local import LocalStorage
from engine.storage.storage import Storage
from tests.fixtures.jobs import Clock
from tests.fixtures.sweep_case import RETENTION, SweepCase

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

    async def started(self, job_id: str) -> None:
        """Wait until a worker has reported progress of the job."""
        async with asyncio.timeout(60):
            while (running := self.progress.get(job_id)) is None or running.reached == 0:
                await asyncio.sleep(0.01)

    async def finished(self, job_id: str) -> Job:
        job = await self.until(job_id, JobStatus.COMPLETED, JobStatus.FAILED)
        async with asyncio.timeout(60):
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


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[SweepCase]:
    root, clock = tmp_path / "data", Clock()
    store = await JobStore.open(root / "stemify.sqlite3", now=clock)
    storage = LocalStorage(root)
    yield SweepCase(root, clock, store, storage, Sweeper(store, storage, clock, RETENTION))
    await store.close()
