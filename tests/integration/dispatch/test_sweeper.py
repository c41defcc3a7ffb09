"""Everything is kept for its time and not longer, and nothing that is not a job's is ever touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from config.settings import Retention, load
from engine.backend import backend
from engine.database.job_store import JobStore
from engine.dispatch.sweeper import Sweeper
from engine.errors import StorageFailed
from engine.jobs.entity import new_job_id
from engine.jobs.job import Job, JobStatus
from engine.storage.local import Storage
from tests.fixtures.jobs import NO_CAPS, START, Clock, pending_job, result_of

SETTINGS = Retention(completed_days=30, failed_days=7, stems_days=90, sweep_interval_s=0.01)
DECOYS = (
    "models/hub/weights.th",
    "models/01a205ec-fe8d-724b-8237-ca688e1702d8/weights.th",
    "keys/links.key",
    "bot.sqlite3",
    "archive/notes.txt",
    "jobs/readme.txt",
    "jobs/my-songs/song.mp3",
    "jobs/00000000000000000000000000000000/song.mp3",
    f"jobs/{uuid4()}/song.mp3",  # an id, but not one that we make
    "jobs/01a205ec-fe8d-724b-8237-ca688e1702d8.bak/input",
    "scratch/mine/file",
    "scratch/01a205ec-fe8d-724b-8237-ca688e1702d8/file",
    "01a205ec-fe8d-724b-8237-ca688e1702d8/input",
)


@dataclass
class House:
    root: Path
    clock: Clock
    store: JobStore
    storage: Storage
    sweeper: Sweeper

    def put(self, key: str) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    def keys(self, job: Job) -> set[str]:
        folder = self.root / "jobs" / job.id
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    async def pending(self, owner: str = "discord:1") -> Job:
        job = pending_job(owner, at=self.clock())
        self.put(f"jobs/{job.id}/input")
        await self.store.add(job, NO_CAPS)
        return job

    async def running(self, owner: str = "discord:1") -> Job:
        await self.pending(owner)
        job = await self.store.claim()
        assert job is not None
        self.put(f"scratch/{job.id}-a{job.attempt}/mix.raw")
        return job

    async def completed(self, owner: str = "discord:1") -> Job:
        """As a crash right after the last write leaves it: nothing tidied yet."""
        job = await self.running(owner)
        self.put(f"jobs/{job.id}/a1/vocals.mp3")
        done = await self.store.complete(job.id, 1, result_of(job), 1)
        assert done is not None
        return done

    async def failed(self, code: str = "worker_died") -> Job:
        job = await self.running()
        self.put(f"jobs/{job.id}/a1/half.mp3")
        failed = await self.store.fail(job.id, attempt=1, code=code, message="x.")
        assert failed is not None
        return failed

    async def is_hot(self, job: Job) -> bool:
        return bool(await self.store.briefs([job.id]))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    root, clock = tmp_path / "data", Clock()
    store = await JobStore.open(root / "stemify.sqlite3", now=clock)
    storage = Storage(root)
    yield House(root, clock, store, storage, Sweeper(store, storage, clock, SETTINGS))
    await store.close()


async def test_completed_rows_stay_30_days_and_stems_90(house: House) -> None:
    job = await house.completed()
    for days, is_hot, has_stems in ((29.9, True, True), (0.2, False, True), (59.8, False, True), (0.2, False, False)):
        house.clock.move(days=days)
        await house.sweeper.sweep()
        assert await house.is_hot(job) == is_hot
        assert house.keys(job) == ({"a1/vocals.mp3"} if has_stems else set())
        assert await house.store.get(job.id) == job, "a look-up by id answers from the archive, too"
    assert not (house.root / "jobs" / job.id).exists()


async def test_failed_job_keeps_row_and_input_for_7_days(house: House) -> None:
    job = await house.failed()
    house.clock.move(days=6.9)
    await house.sweeper.sweep()
    assert await house.is_hot(job) and house.keys(job) == {"input"}
    house.clock.move(days=0.2)
    swept = await house.sweeper.sweep()
    assert swept.archived == 1
    assert not await house.is_hot(job) and house.keys(job) == set()
    assert await house.store.get(job.id) == job


async def test_nothing_is_left_of_a_cancelled_job(house: House) -> None:
    job = await house.failed("cancelled")
    await house.sweeper.sweep()
    assert not (house.root / "jobs" / job.id).exists()
    assert house.storage.scratch_on_disk() == []


async def test_completed_job_drops_input_and_lost_attempts(house: House) -> None:
    job = await house.running()
    house.put(f"jobs/{job.id}/a1/half.mp3")
    await house.store.next_attempt(job.id, 1)
    house.put(f"jobs/{job.id}/a2/vocals.mp3")
    await house.store.complete(job.id, 2, result_of(job, 2), 1)
    await house.sweeper.sweep()
    assert house.keys(job) == {"a2/vocals.mp3"}


async def test_what_waits_or_runs_is_left_alone(house: House) -> None:
    running = await house.running("a")
    again = await house.running("b")
    waiting = await house.pending("c")
    await house.store.next_attempt(again.id, 1)
    house.put(f"scratch/{again.id}-a2/mix.raw")
    house.put(f"jobs/{again.id}/a2/half.mp3")
    house.clock.move(days=1000)  # the queue stood still for a while
    await house.sweeper.sweep()
    assert house.keys(running) == house.keys(waiting) == {"input"}
    assert house.keys(again) == {"input", "a2/half.mp3"}
    assert {name for name, _ in house.storage.scratch_on_disk()} == {f"{running.id}-a1", f"{again.id}-a2"}


async def test_scratch_of_what_does_not_run_goes_at_once(house: House) -> None:
    done, failed = await house.completed(), await house.failed()
    house.put(f"scratch/{new_job_id()}-a1/mix.raw")
    swept = await house.sweeper.sweep()
    assert house.storage.scratch_on_disk() == []
    assert swept.leftovers_removed == 3
    assert await house.store.get(done.id) == done and await house.store.get(failed.id) == failed


async def test_kept_stems_stay_until_they_are_deleted(house: House) -> None:
    early, late, never = await house.completed("a"), await house.completed("b"), await house.completed("c")
    await house.store.keep(early.id, True)
    house.clock.move(days=40)
    await house.sweeper.sweep()
    kept = await house.store.keep(late.id, True)  # archived by now
    assert kept is not None and kept.keep
    house.clock.move(days=500)
    await house.sweeper.sweep()
    assert house.keys(early) == house.keys(late) == {"a1/vocals.mp3"}
    assert house.keys(never) == set()
    await house.store.keep(late.id, False)
    assert await house.store.delete(early.id)
    await house.sweeper.sweep()
    assert house.keys(early) == house.keys(late) == set()
    assert await house.store.get(early.id) is None
    assert await house.store.get(late.id) is not None


async def test_crash_during_delete_still_removes_files(house: House) -> None:
    job, archived = await house.completed("a"), await house.completed("b")
    house.clock.move(days=31)
    await house.sweeper.sweep()
    job = await house.completed("a")
    assert await house.store.delete(job.id) and await house.store.delete(archived.id)
    # Here the process was killed, before it came to the files.
    await house.sweeper.sweep()
    assert house.keys(job) == house.keys(archived) == set()
    assert await house.store.deletions() == []


async def test_an_upload_that_never_became_a_job_goes_after_a_day(house: House) -> None:
    arriving = new_job_id(house.clock())
    house.put(f"jobs/{arriving}/input")
    house.put(f"jobs/{arriving}/.input.ab12.part")
    house.clock.move(hours=23)
    await house.sweeper.sweep()
    assert (house.root / f"jobs/{arriving}/input").exists()
    house.clock.move(hours=2)
    await house.sweeper.sweep()
    assert not (house.root / f"jobs/{arriving}").exists()


async def test_a_result_whose_row_is_missing_is_not_thrown_away_early(house: House) -> None:
    unknown = new_job_id(house.clock())  # as after a backup of the database was restored
    house.put(f"jobs/{unknown}/a1/vocals.mp3")
    house.clock.move(days=89)
    await house.sweeper.sweep()
    assert (house.root / f"jobs/{unknown}/a1/vocals.mp3").exists()
    house.clock.move(days=2)
    await house.sweeper.sweep()
    assert not (house.root / f"jobs/{unknown}").exists()


async def test_decoys_are_never_touched(house: House, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("keep")
    for decoy in DECOYS:
        house.put(decoy)
    for place in ("jobs", "scratch"):
        old = new_job_id(house.clock())
        (house.root / place).mkdir(exist_ok=True)
        (house.root / place / (old if place == "jobs" else f"{old}-a1")).symlink_to(outside)
    mine = await house.completed()
    await house.store.delete(mine.id)
    house.clock.move(days=3000)
    for _ in range(2):
        await house.sweeper.sweep()
    assert [decoy for decoy in DECOYS if not (house.root / decoy).is_file()] == []
    assert (outside / "file").read_text() == "keep"
    assert sum(path.is_symlink() for path in (house.root / "jobs").iterdir()) == 1
    assert sum(path.is_symlink() for path in (house.root / "scratch").iterdir()) == 1


async def test_jobs_around_a_months_border_are_found_by_id(house: House) -> None:
    house.clock.at = datetime(2026, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    before = await house.completed("a")
    house.clock.move(seconds=0.001)
    after = await house.completed("b")
    # An id that a front end made just before midnight, accepted just after.
    crossing = pending_job("c", at=house.clock(), job_id=new_job_id(house.clock() - timedelta(seconds=5)))
    await house.store.add(crossing, NO_CAPS)
    failed = await house.store.fail(crossing.id, attempt=None, code="x", message="x.")
    foreign = pending_job("d", at=house.clock(), job_id=str(uuid4()))
    await house.store.add(foreign, NO_CAPS)
    odd = await house.store.fail(foreign.id, attempt=None, code="x", message="x.")
    house.clock.move(days=60)
    assert (await house.sweeper.sweep()).archived == 4
    assert house.store.archive.months() == ["2026-12", "2027-01"]
    for job in (before, after, failed, odd):
        assert job is not None and await house.store.get(job.id) == job
        assert not await house.is_hot(job)
        assert await house.store.ids_by_owner(job.owner) == [job.id]


async def test_archived_rows_are_smaller(house: House) -> None:
    job = await house.completed()
    house.clock.move(days=31)
    await house.sweeper.sweep()
    path = house.root / "archive" / "2026-11.sqlite3"
    packed = await asyncio.to_thread(lambda: path.read_bytes())
    assert b"vocals" not in packed, "the metadata is not compressed"
    assert await house.store.get(job.id) == job


async def test_an_archived_job_is_still_listed_after_the_newer_ones(house: House) -> None:
    old = await house.completed()
    house.clock.move(days=31)
    await house.sweeper.sweep()
    new = await house.completed()
    assert await house.store.list_by_owner("discord:1", limit=5) == [new, old]
    assert await house.store.list_by_owner("discord:1", limit=1) == [new]
    assert await house.store.list_by_owner("discord:1", limit=5, active_only=True) == []


async def test_more_rows_than_a_batch_are_archived_in_one_sweep(house: House) -> None:
    for _ in range(1203):
        job = pending_job(at=house.clock())
        await house.store.add(job, NO_CAPS)
    await house.store.database.run("UPDATE jobs SET status = 'failed', error = 'x'")
    assert (await house.store.counts())[JobStatus.FAILED] == 1203
    house.clock.move(days=8)
    assert (await house.sweeper.sweep()).archived == 1203
    assert sum((await house.store.counts()).values()) == 0


async def test_one_job_that_cannot_be_removed_does_not_stop_the_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, loose = await house.completed("a"), await house.completed("b")
    remove = house.storage.delete_tree

    async def refuse(prefix: str) -> None:
        if stuck.id in prefix:
            raise StorageFailed(detail="read-only")
        await remove(prefix)

    await house.sweeper.sweep()
    house.clock.move(days=91)
    monkeypatch.setattr(house.storage, "delete_tree", refuse)
    await house.sweeper.sweep()
    assert house.keys(loose) == set() and house.keys(stuck) == {"a1/vocals.mp3"}
    monkeypatch.undo()
    await house.sweeper.sweep()
    assert house.keys(stuck) == set()


async def test_the_place_of_an_archived_result_is_looked_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """In object storage each look is a request, and there may be a million."""
    job, asked, has_result = await house.completed(), list[str](), house.storage.has_result

    def has_result_counted(job_id: str) -> bool:
        asked.append(job_id)
        return has_result(job_id)

    monkeypatch.setattr(house.storage, "has_result", has_result_counted)
    house.clock.move(days=31)
    for _ in range(3):
        await house.sweeper.sweep()
    assert asked == [job.id]
    house.clock.move(days=60)
    assert (await house.sweeper.sweep()).results_removed == 1


async def test_the_sweeper_goes_on_after_a_sweep_that_failed(house: House) -> None:
    job = await house.completed()
    house.clock.move(days=91)
    (house.root / "archive").write_text("in the way")  # no month can be written
    task = asyncio.create_task(house.sweeper.run())
    while house.keys(job):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not task.done() and await house.is_hot(job)
    (house.root / "archive").unlink()
    while await house.is_hot(job):
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await house.store.get(job.id) == job


async def test_a_machine_that_comes_up_years_ahead_deletes_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole backend, as it is wired."""
    job = await house.completed()
    await house.store.close()
    settings = load(data_dir=house.root, retention={"sweep_interval_s": 0.05}, workers={"devices": ["cpu"]})
    clock = Clock(START + timedelta(days=5000))
    caplog.set_level("INFO", "engine.dispatch.sweeper")
    async with asyncio.timeout(30), backend(settings, with_web=False, now=clock) as opened:
        while caplog.text.count("swept") < 2:
            await asyncio.sleep(0.01)
        assert (await opened.service.get(job.id)).job == job
    assert house.keys(job) == {"a1/vocals.mp3"}
