"""Which earlier results answer a request, with a real store and real files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from engine.database.job_store import JobStore
from engine.database.queue_limits import QueueLimits
from engine.database.quota import REPEATS_PER_HOUR, Quota
from engine.database.usage import Usage
from engine.dispatch.cleanup import JobCleanup
from engine.errors import QuotaExceeded
from engine.jobs.job import Job, JobStatus
from engine.jobs.results import TrustCard
from engine.pool.pool import WorkerPool
from engine.service.acceptance import Acceptance
from engine.service.repeats import Repeats
from engine.storage.local import LocalStorage
from tests.fixtures.jobs import NO_QUEUE_LIMITS, Clock, pending_job, result_of

ANN, BOB, BAND, HALL = "discord:ann", "discord:bob", "discord:band", "discord:hall"
TRUST = TrustCard(
    residual_db=-40, gain_db=0, clipped_samples=0, seed=1, shifts=1, overlap=0.25, segment_s=7.8, segments=9,
    device="cpu", notes=("A note.",),
)  # fmt: skip


class OneVersion:
    """The part of a pool that repeats need."""

    version: str | None = "v1"

    def model_version(self, name: str) -> str | None:
        return self.version


@dataclass
class Case:
    store: JobStore
    storage: LocalStorage
    clock: Clock
    pool: OneVersion
    acceptance: Acceptance

    async def completed(self, owner: str = ANN, place: str | None = None, audio: str = "song") -> Job:
        job = self.new_job(owner, place)
        await self.store.add(job, NO_QUEUE_LIMITS)
        assert await self.store.claim() is not None
        result = result_of(job).model_copy(update={"audio_hash": audio, "model_version": "v1", "trust": TRUST})
        for _, stem in result.stems:
            self.put(stem.path)
        done = await self.store.complete(job.id, 1, result, 3)
        assert done is not None
        return done

    def put(self, key: str) -> None:
        path = self.storage.local_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())

    def new_job(self, owner: str = ANN, place: str | None = None, **changes: object) -> Job:
        job = pending_job(owner, at=self.clock()).model_copy(update={"place": place, "input_size": 7, **changes})
        self.put(f"jobs/{job.id}/input")
        return job

    async def repeat(self, job: Job, audio: str = "song") -> Job | None:
        return await self.acceptance.repeat(job, audio)


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    clock, pool = Clock(), OneVersion()
    store = await JobStore.open(tmp_path / "data" / "stemify.sqlite3", now=clock)
    storage, workers = LocalStorage(tmp_path / "data"), cast(WorkerPool, pool)
    cleanup = JobCleanup(store, storage, keep_inputs=False)
    repeats = Repeats(store, storage, workers, cleanup, lifetime=timedelta(days=90), now=clock)
    limits: QueueLimits = NO_QUEUE_LIMITS
    quota = Quota(store.database, per_hour=5, now=clock)
    yield Case(store, storage, clock, pool, Acceptance(store, storage, workers, limits, quota, repeats))
    await store.close()


async def test_repeat_is_a_completed_job_with_its_own_files(case: Case) -> None:
    first = await case.completed()
    case.clock.move(days=20)
    again = await case.repeat(case.new_job())
    assert again is not None and again.status is JobStatus.COMPLETED and again.attempt == 1 and again.result is not None
    assert again.updated_at == case.clock(), "it expires on its own"
    assert again.result.separated_at == first.updated_at
    assert again.result.trust is not None and again.result.trust.notes == (
        "Separated on 23 November 2026: the same song with the same options.",
        "A note.",
    )
    for name, stem in again.result.stems:
        assert stem.path.startswith(f"jobs/{again.id}/a1/") and case.storage.local_path(stem.path).is_file(), name
    assert not case.storage.local_path(f"jobs/{again.id}/input").exists(), "songs are not kept here"
    assert await Usage(case.store.database, 0).stored_bytes(ANN) == 7 + 4000 + 4000
    assert (await case.store.counts())[JobStatus.COMPLETED] == 2
    case.clock.move(days=1)
    assert await case.store.deletions() == [], "its files are not deleted as those of a crash"
    third = await case.repeat(case.new_job())
    assert third is not None and third.result is not None and third.result.trust is not None
    assert third.result.separated_at == first.updated_at and len(third.result.trust.notes) == 2


async def test_repeats_are_limited_for_each_owner(case: Case) -> None:
    await case.completed(ANN, BAND)
    for _ in range(REPEATS_PER_HOUR):
        assert await case.repeat(case.new_job()) is not None
    refused = case.new_job()
    with pytest.raises(QuotaExceeded, match=r"60 songs .* Try again in 60 minutes"):
        await case.repeat(refused)
    assert not case.storage.local_path(f"jobs/{refused.id}").exists() and await case.store.get(refused.id) is None
    assert await case.repeat(case.new_job(BOB, BAND)) is not None
    case.clock.move(hours=1)
    assert await case.repeat(case.new_job()) is not None


async def test_results_are_shared_in_their_place_only(case: Case) -> None:
    await case.completed(ANN, BAND)
    assert await case.repeat(case.new_job(BOB, BAND)) is not None
    assert await case.repeat(case.new_job("discord:eve", HALL)) is None
    assert await case.repeat(case.new_job("discord:eve", None)) is None
    assert await case.repeat(case.new_job(ANN, HALL)) is not None, "the owner's own"


async def test_private_results_are_not_shared(case: Case) -> None:
    await case.completed(ANN, None)
    assert await case.repeat(case.new_job(BOB, BAND)) is None
    assert await case.repeat(case.new_job(BOB, None)) is None
    assert await case.repeat(case.new_job(ANN, BAND)) is not None


async def test_other_audio_options_and_weights_are_not_repeated(case: Case) -> None:
    await case.completed()
    assert await case.repeat(case.new_job(), audio="another song") is None
    job = case.new_job()
    options = job.options.model_copy(update={"normalize": True})
    assert await case.repeat(job.model_copy(update={"options": options})) is None
    for version in ("v2", None):
        case.pool.version = version
        assert await case.repeat(case.new_job()) is None


async def test_expired_and_deleted_results_are_not_repeated(case: Case) -> None:
    first = await case.completed()
    case.clock.move(days=31)
    assert await case.store.archive_finished(JobStatus.COMPLETED, case.clock()) == 1
    again = await case.repeat(case.new_job())
    assert again is not None, "an archived job whose stems are still there"
    await case.store.delete(again.id)
    case.clock.move(days=59)
    assert await case.repeat(case.new_job()) is None
    await case.store.keep(first.id, True)
    assert await case.repeat(case.new_job()) is not None
    for job in await case.store.list_by_owner(ANN, limit=10):
        await case.store.delete(job.id)
    assert await case.repeat(case.new_job()) is None


async def test_damaged_archive_leaves_a_job_to_separate(case: Case) -> None:
    await case.completed()
    case.clock.move(days=31)
    await case.store.archive_finished(JobStatus.COMPLETED, case.clock())
    (archive,) = (path for path in (case.storage.root / "archive").iterdir() if path.suffix == ".sqlite3")
    archive.write_bytes(b"damaged" * 999)
    assert await case.repeat(case.new_job()) is None


async def test_incomplete_result_leaves_a_job_to_separate(case: Case) -> None:
    first = await case.completed()
    assert first.result is not None
    case.storage.local_path(dict(first.result.stems)["other"].path).unlink()
    job = case.new_job()
    assert await case.repeat(job) is None
    assert [path.name for path in case.storage.local_path(f"jobs/{job.id}").iterdir()] == ["input"]
    await case.store.add(job, NO_QUEUE_LIMITS)
    case.clock.move(days=1)
    assert await case.store.deletions() == [], "the song of a queued job is not deleted"
