"""Backup while the bot runs, and restore."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from engine.database import backup
from engine.database.backup import BackupFailed, back_up, restore
from engine.database.errors import AlreadyRunning
from engine.database.job_store import JobStore
from engine.database.lock import exclusive_lock
from engine.jobs.job import Job, JobStatus
from tests.fixtures.jobs import NO_QUEUE_LIMITS, Clock, pending_job, result_of


class DataFolder:
    """A data folder with an open store."""

    def __init__(self, data: Path, store: JobStore, clock: Clock) -> None:
        self.data, self.store, self.clock = data, store, clock

    def put(self, key: str, data: bytes = b"sound") -> None:
        path = self.data / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def pending(self, owner: str = "discord:1") -> Job:
        job = pending_job(owner, at=self.clock())
        self.clock.move(seconds=1)
        self.put(f"jobs/{job.id}/input", job.id.encode())
        await self.store.add(job, NO_QUEUE_LIMITS)
        return job

    async def completed(self, owner: str = "discord:1") -> Job:
        await self.pending(owner)
        job = await self.store.claim()
        assert job is not None
        for _, stem in result_of(job).stems:
            self.put(stem.path, stem.path.encode())
        done = await self.store.complete(job.id, 1, result_of(job), 1)
        assert done is not None
        (self.data / "jobs" / job.id / "input").unlink()
        return done


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[DataFolder]:
    clock = Clock()
    store = await JobStore.open(tmp_path / "data" / "stemify.sqlite3", now=clock)
    yield DataFolder(tmp_path / "data", store, clock)
    await store.close()


async def run_backup(folder: DataFolder, target: Path, *, with_stems: bool = True) -> None:
    await asyncio.to_thread(back_up, folder.data, target, with_stems=with_stems)


@contextlib.asynccontextmanager
async def restored(source: Path, data: Path) -> AsyncIterator[JobStore]:
    await asyncio.to_thread(restore, source, data)
    store = await JobStore.open(data / "stemify.sqlite3")
    yield store
    await store.close()


async def test_restore_returns_all_jobs_keys_and_files(folder: DataFolder, tmp_path: Path) -> None:
    archived, done, waiting = await folder.completed(), await folder.completed("discord:2"), await folder.pending()
    await folder.store.archive_finished(JobStatus.COMPLETED, done.updated_at)
    assert not await folder.store.summaries([archived.id]), "the first is in the archive"
    folder.put("keys/links.key", b"secret")
    folder.put("models/big.th")
    folder.put(f"scratch/{waiting.id}-a1/mix.raw")
    with contextlib.closing(sqlite3.connect(folder.data / "bot.sqlite3")) as bot:
        bot.executescript("CREATE TABLE posting (job_id TEXT); INSERT INTO posting VALUES ('x');")
    await run_backup(folder, tmp_path / "backup")
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700, "only the owner can read it"
    shutil.rmtree(folder.data / "jobs")  # the backup must not depend on the original
    async with restored(tmp_path / "backup", tmp_path / "new") as store:
        assert [await store.get(job.id) for job in (archived, done, waiting)] == [archived, done, waiting]
        assert await store.claim() is not None
    new = tmp_path / "new"
    assert (new / "jobs" / waiting.id / "input").read_bytes() == waiting.id.encode()
    assert done.result is not None
    for _, stem in done.result.stems:
        assert (new / stem.path).read_bytes() == stem.path.encode()
    assert (new / "keys/links.key").read_bytes() == b"secret"
    with contextlib.closing(sqlite3.connect(new / "bot.sqlite3")) as bot:
        assert bot.execute("SELECT * FROM posting").fetchall() == [("x",)]
    assert not (new / "models").exists() and not (new / "scratch").exists(), "models and scratch are not copied"


async def test_backup_without_stems_keeps_waiting_inputs(folder: DataFolder, tmp_path: Path) -> None:
    await folder.completed()
    waiting = await folder.pending()
    await run_backup(folder, tmp_path / "backup", with_stems=False)
    files = [path.relative_to(tmp_path / "backup" / "jobs") for path in (tmp_path / "backup" / "jobs").rglob("*")]
    assert [str(path) for path in files if path.name == "input"] == [f"{waiting.id}/input"]
    assert not [path for path in files if path.suffix == ".mp3"]


async def test_backup_during_work_is_complete(folder: DataFolder, tmp_path: Path) -> None:
    """Jobs are added, finished, archived and deleted during the backup."""
    stop = asyncio.Event()
    alive: set[str] = set()
    deleted: set[str] = set()

    async def work() -> None:
        while not stop.is_set():
            await folder.pending("discord:3")
            done = await folder.completed()
            alive.add(done.id)
            await folder.store.archive_finished(JobStatus.COMPLETED, done.updated_at - timedelta(seconds=5))
            if done.updated_at.second % 3 == 0:
                alive.discard(done.id)
                deleted.add(done.id)
                await folder.store.delete(done.id)
                shutil.rmtree(folder.data / "jobs" / done.id)

    working = asyncio.create_task(work())
    before = []
    for number in range(5):
        await asyncio.sleep(0.05)
        before.append(set(alive))
        await run_backup(folder, tmp_path / f"backup{number}")
    stop.set()
    await working
    for number in range(5):
        data = tmp_path / f"new{number}"
        async with restored(tmp_path / f"backup{number}", data) as store:
            assert (await store.counts())[JobStatus.PENDING] > 0
            there = [*await store.ids_by_owner("discord:1"), *await store.ids_by_owner("discord:3")]
            assert before[number] - deleted <= set(there)
            for job_id in there:
                job = await store.get(job_id)
                assert job is not None
                assert job.is_over or (data / "jobs" / job_id / "input").is_file(), "its song"


async def test_get_finds_job_during_archiving(
    folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await folder.completed(), await folder.completed()
    await folder.store.archive_finished(JobStatus.COMPLETED, second.updated_at)
    loop, copy = asyncio.get_running_loop(), backup._copy_database

    def copy_then_archive(source: Path, target: Path) -> int:
        size_bytes = copy(source, target)
        moving = folder.store.archive_finished(JobStatus.COMPLETED, second.updated_at + timedelta(days=1))
        asyncio.run_coroutine_threadsafe(moving, loop).result()
        return size_bytes

    monkeypatch.setattr(backup, "_copy_database", copy_then_archive)
    await run_backup(folder, tmp_path / "backup")
    assert not await folder.store.summaries([second.id]), "it has moved"
    async with restored(tmp_path / "backup", tmp_path / "new") as store:
        assert [await store.get(job.id) for job in (first, second)] == [first, second]


async def test_incomplete_backup_is_not_restored(folder: DataFolder, tmp_path: Path) -> None:
    job = await folder.completed()
    await run_backup(folder, tmp_path / "backup")
    incomplete = shutil.copytree(tmp_path / "backup", tmp_path / "incomplete")
    (incomplete / "backup.json").unlink()
    damaged = shutil.copytree(tmp_path / "backup", tmp_path / "damaged")
    with (damaged / "stemify.sqlite3").open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 8192)
    for source, why in (
        (incomplete, "not a complete backup"),
        (damaged, "damaged"),
        (tmp_path / "nowhere", "not a complete backup"),
    ):
        with pytest.raises(BackupFailed, match=why):
            restore(source, tmp_path / "new")
    assert not (tmp_path / "new" / "stemify.sqlite3").exists()
    with pytest.raises(BackupFailed, match="not empty"):
        restore(tmp_path / "backup", folder.data)
    (tmp_path / "used").mkdir()
    with exclusive_lock(tmp_path / "used" / "stemify.lock"), pytest.raises(AlreadyRunning):
        restore(tmp_path / "backup", tmp_path / "used")
    assert await folder.store.get(job.id) == job


async def test_empty_working_directory_becomes_backup(
    folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    back_up(folder.data, Path())
    assert (tmp_path / "here" / "backup.json").is_file()


async def test_backup_needs_new_folder_outside_data(folder: DataFolder, tmp_path: Path) -> None:
    await run_backup(folder, tmp_path / "backup")
    for target, why in ((tmp_path / "backup", "already exists"), (folder.data / "backup", "inside the data folder")):
        with pytest.raises(BackupFailed, match=why):
            back_up(folder.data, target)
    with pytest.raises(BackupFailed, match="nothing to back up"):
        back_up(tmp_path / "empty", tmp_path / "other")
    assert not (tmp_path / "other").exists()
