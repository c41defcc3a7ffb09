"""Database files: queries, damage, locks, full disks."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from pathlib import Path

import pytest

from engine import database
from engine.database.archive import Archive
from engine.database.errors import (
    StoreBusy,
    StoreDamaged,
    StoreFailed,
    StoreFull,
    StoreReadOnly,
)
from engine.database.job_store import JobStore
from engine.database.sql import QUERIES, parse_queries
from tests.fixtures.jobs import NO_QUEUE_LIMITS, create_database, pending_job, result_of, waiting_ids

# Queries by name.


def test_code_uses_exactly_the_named_queries() -> None:
    source = "".join(path.read_text() for path in Path(database.__file__).parent.glob("*.py"))
    assert set(re.findall(r'QUERIES\["(\w+)"\]', source)) == set(QUERIES)
    assert parse_queries("-- name: one\nSELECT 1;\n") == {"one": "SELECT 1;"}
    with pytest.raises(ValueError, match="named twice: one"):
        parse_queries("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")


async def test_readers_cannot_write(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3")
    with pytest.raises(StoreReadOnly):
        await store.database.read("DELETE FROM jobs")
    await store.close()


async def test_concurrent_key_creation_agrees(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    stores = await asyncio.gather(*(JobStore.open(path, readers=1) for _ in range(4)))
    job = pending_job()
    await stores[0].add(job, NO_QUEUE_LIMITS)
    assert await stores[3].get(job.id) == job
    for store in stores:
        await store.close()


# Damage.


async def test_other_file_is_refused_with_next_step(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    path.write_bytes(b"this is not a database, it is a text " * 200)
    with pytest.raises(StoreDamaged, match="restore a backup"):
        await JobStore.open(path)
    assert path.read_bytes().startswith(b"this is not")  # nothing was "repaired"


@pytest.mark.parametrize("damage", ["torn page", "cut short", "header"])
async def test_damaged_database_is_refused_when_opened(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "stemify.sqlite3"
    await create_database(path, jobs=200)
    data = bytearray(path.read_bytes())
    if damage == "torn page":
        for start in range(4096 * 8, len(data) - 4096, 4096 * 4):
            data[start : start + 2048] = b"\xa5" * 2048
    elif damage == "cut short":
        del data[len(data) // 2 :]
    else:
        data[:16] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(StoreDamaged):
        await JobStore.open(path)


async def test_damaged_archive_raises_only_for_its_jobs(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3")
    job, other = pending_job(), pending_job()
    await store.add(other, NO_QUEUE_LIMITS)
    archive = Archive(tmp_path / "archive")
    archive.add([job])
    (tmp_path / "archive" / "2026-11.sqlite3").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StoreDamaged):
        await store.get(job.id)
    assert await store.get(other.id) == other
    await store.close()


async def test_unwritable_folder_raises_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreFailed):
        await JobStore.open(tmp_path / "file" / "stemify.sqlite3")
    (tmp_path / "stemify.sqlite3").mkdir()
    with pytest.raises(StoreFailed):
        await JobStore.open(tmp_path / "stemify.sqlite3")


async def test_closed_store_raises(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3")
    await store.close()
    await store.close()
    with pytest.raises(StoreFailed):
        await store.counts()
    with pytest.raises(StoreFailed):
        await store.claim()


# Locked and full.


async def test_short_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    await create_database(path)
    store = await JobStore.open(path, busy_limit_s=30)
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.4, lambda: holder.execute("ROLLBACK"))
    release.start()
    assert await store.claim() is not None
    release.join()
    holder.close()
    await store.close()


async def test_endless_lock_gives_up_without_partial_write(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    await create_database(path)
    store = await JobStore.open(path, busy_limit_s=0.3)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        await store.claim()
    with pytest.raises(StoreBusy):
        await store.add(pending_job(), NO_QUEUE_LIMITS)
    assert len(await waiting_ids(store)) == 1  # reads still work
    holder.execute("ROLLBACK")
    holder.close()
    await store.add(pending_job(), NO_QUEUE_LIMITS)
    assert len(await waiting_ids(store)) == 2
    await store.close()


async def test_full_disk_rejects_jobs_until_space_is_free(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3")
    pages = (await store.database.run("PRAGMA page_count"))[0][0]
    await store.database.run(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFull, match="disk"):
        for _ in range(100):
            await store.add(pending_job(title="x" * 3000), NO_QUEUE_LIMITS)
    accepted = len(await waiting_ids(store))
    await store.database.run("PRAGMA max_page_count = 1000000")
    await store.add(pending_job(), NO_QUEUE_LIMITS)
    assert len(await waiting_ids(store)) == accepted + 1 == sum((await store.counts()).values())
    await store.close()


async def test_cancelled_caller_does_not_interrupt_write(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3")
    for _ in range(20):
        task = asyncio.create_task(store.add(pending_job(), NO_QUEUE_LIMITS))
        await asyncio.sleep(0.0005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    job = pending_job()
    await store.add(job, NO_QUEUE_LIMITS)  # no transaction is left open
    assert (await store.get(job.id)) == job
    assert len(await waiting_ids(store)) == sum((await store.counts()).values())
    claimed = await store.claim()
    assert claimed is not None
    finishing = asyncio.create_task(store.complete(claimed.id, 1, result_of(claimed), 1))
    await asyncio.sleep(0)
    finishing.cancel()
    await asyncio.gather(finishing, return_exceptions=True)
    await store.close()
    again = await JobStore.open(tmp_path / "stemify.sqlite3")
    found = await again.get(claimed.id)
    assert found is not None and found.status == "completed"
    await again.close()


async def test_archive_file_never_exists_without_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process were killed while it creates the file."""
    archive = Archive(tmp_path / "archive")
    job = pending_job()
    with monkeypatch.context() as patched, pytest.raises(StoreFailed):
        patched.setattr("engine.database.archive._SCHEMA", "not SQL")
        archive.add([job])
    assert archive.months() == [] and archive.ids_of(job.owner) == [] and archive.get(job.id) is None
    archive.add([job])
    assert archive.get(job.id) == job
