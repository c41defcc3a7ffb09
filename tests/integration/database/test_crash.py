"""Processes that write jobs are killed with SIGKILL: no reported step is lost."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

from engine.database.archive import Archive
from engine.database.job_store import JobStore
from engine.jobs.job import Job, JobStatus
from tests.fixtures.jobs import NO_QUEUE_LIMITS, START, Clock, pending_job, result_of

KILLS = 6

WRITER = """
import asyncio, random, sys
from pathlib import Path
from engine.jobs.job import JobStatus, Stage
from engine.database.job_store import JobStore, ProgressUpdate
from tests.fixtures.jobs import NO_QUEUE_LIMITS, pending_job, result_of

async def submit(store, chance):
    while True:
        job = pending_job(f"discord:{chance.randrange(5)}", at=store._now(), scope="discord:9")
        await store.add(job, NO_QUEUE_LIMITS)
        print("pending", job.id, flush=True)
        await asyncio.sleep(0.002)

async def work(store, chance):
    for job in await store.processing():
        again = await store.next_attempt(job.id, job.attempt)
        if again is not None:
            await end(store, again, chance)
    while True:
        job = await store.claim()
        if job is None:
            await asyncio.sleep(0.005)
            continue
        print("processing", job.id, flush=True)
        await store.save_progress([ProgressUpdate(job.id, 1, Stage.SEPARATING, chance.randrange(99))])
        await end(store, job, chance)

async def end(store, job, chance):
    if chance.random() < 0.7:
        await store.complete(job.id, job.attempt, result_of(job, job.attempt), 1)
        print("completed", job.id, flush=True)
    else:
        await store.fail(job.id, attempt=job.attempt, code="x", message="x.")
        print("failed", job.id, flush=True)

async def main():
    chance = random.Random(int(sys.argv[2]))
    store = await JobStore.open(Path(sys.argv[1]))
    print("open", "-", flush=True)
    await asyncio.gather(submit(store, chance), work(store, chance))

asyncio.run(main())
"""


def killed(program: str, *arguments: str, after_s: float) -> list[tuple[str, str]]:
    """Run a child, kill it `after_s` after its first line and return its output lines."""
    child = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        first = child.stdout.readline()
        time.sleep(after_s)
        child.kill()
        lines = [first, *child.stdout.read().splitlines(keepends=True)]
    assert child.wait(timeout=30) == -9, "the child ended by itself"
    return [(line.split()[0], line.split()[1]) for line in lines if line.endswith("\n")]


async def is_consistent(store: JobStore) -> None:
    """Check the integrity of the file and its counters."""
    assert (await store.database.read("PRAGMA integrity_check"))[0][0] == "ok"
    rows = await store.database.read("SELECT id, status, owner, scope FROM jobs")
    counted = Counter(row["status"] for row in rows)
    assert await store.counts() == {status: counted[status] for status in JobStatus}
    owners = {
        row["owner"]: (row["pending"], row["running"]) for row in await store.database.read("SELECT * FROM owners")
    }
    for owner, kept in owners.items():
        mine = Counter(row["status"] for row in rows if row["owner"] == owner)
        assert kept == (mine["pending"], mine["processing"])
    active = sum(row["status"] in ("pending", "processing") for row in rows if row["scope"])
    assert sum(row["active"] for row in await store.database.read("SELECT active FROM scopes")) == active


async def test_killed_writer_loses_no_committed_row(tmp_path: Path) -> None:
    path, chance = tmp_path / "stemify.sqlite3", random.Random(20261123)
    told: dict[str, str] = {}
    order = {"pending": 0, "processing": 1, "completed": 2, "failed": 2}
    for life in range(KILLS):
        for what, job_id in await asyncio.to_thread(
            killed, WRITER, str(path), str(life), after_s=chance.uniform(0.05, 0.4)
        ):
            if what != "open":
                told[job_id] = what
        store = await JobStore.open(path)
        try:
            await is_consistent(store)
            for job_id, what in told.items():
                job = await store.get(job_id)
                assert job is not None, f"an accepted job is lost in life {life}"
                # An unreported write may have been committed; a reported one must be.
                assert order[job.status] >= order[what]
                if what in ("completed", "failed"):
                    assert job.status == what
                if job.status is JobStatus.COMPLETED:
                    assert job.result == result_of(job, job.attempt)
        finally:
            await store.close()
    assert Counter(told.values())["completed"] > KILLS, "the writer never got anywhere"


ARCHIVER = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from engine.jobs.job import JobStatus
from engine.database.job_store import JobStore
from tests.fixtures.jobs import START

async def main():
    store = await JobStore.open(Path(sys.argv[1]))
    print("open", "-", flush=True)
    while True:
        await store.archive_finished(JobStatus.FAILED, START + timedelta(days=400), limit=7)
        await asyncio.sleep(0.001)

asyncio.run(main())
"""


async def over_jobs(store: JobStore, count: int, clock: Clock) -> list[Job]:
    """Return failed jobs of four months, some a second before and after the end of a month."""
    jobs = []
    for number in range(count):
        month = START.replace(month=9 + number % 4, day=1, hour=0)
        clock.at = month + timedelta(seconds=number % 3 - 1)
        job = pending_job(f"discord:{number % 3}", at=clock.at)
        await store.add(job, NO_QUEUE_LIMITS)
        failed = await store.fail(job.id, attempt=None, code="x", message="x.")
        assert failed is not None
        jobs.append(failed)
    return jobs


async def test_killed_archiver_loses_or_doubles_no_job(tmp_path: Path) -> None:
    path, clock, chance = tmp_path / "stemify.sqlite3", Clock(), random.Random(7)
    store = await JobStore.open(path, now=clock)
    jobs = await over_jobs(store, 200, clock)
    await store.close()
    for _ in range(3):
        await asyncio.to_thread(killed, ARCHIVER, str(path), after_s=chance.uniform(0.02, 0.15))
        store = await JobStore.open(path)
        await is_consistent(store)
        assert [await store.get(job.id) for job in jobs] == jobs
        await store.close()
    store = await JobStore.open(path)
    while await store.archive_finished(JobStatus.FAILED, START + timedelta(days=400)):
        pass
    assert sum((await store.counts()).values()) == 0
    assert [await store.get(job.id) for job in jobs] == jobs
    found = [job_id for owner in range(3) for job_id in await store.ids_by_owner(f"discord:{owner}")]
    assert sorted(found) == sorted(job.id for job in jobs)
    await store.close()


async def test_job_in_both_databases_counts_once(tmp_path: Path) -> None:
    clock = Clock()
    store = await JobStore.open(tmp_path / "stemify.sqlite3", now=clock)
    (job,) = await over_jobs(store, 1, clock)
    Archive(tmp_path / "archive").add([job])  # as after a crash between copying and deleting
    kept = await store.keep(job.id, True)
    assert kept is not None and await store.get(job.id) == kept
    assert await store.ids_by_owner(job.owner) == [job.id]
    assert await store.archive_finished(JobStatus.FAILED, START + timedelta(days=400)) == 1
    assert await store.get(job.id) == kept, "the older copy won"
    Archive(tmp_path / "archive").add([job])
    assert await store.delete(job.id)
    assert await store.get(job.id) is None
    await store.close()


CLAIMER = """
import asyncio, sys
from pathlib import Path
from engine.database.job_store import JobStore

async def main():
    store = await JobStore.open(Path(sys.argv[1]), readers=1)
    while (job := await store.claim()) is not None:
        print(job.id, flush=True)
    await store.close()

asyncio.run(main())
"""


def claimed_by_two(path: Path) -> list[str]:
    children = [
        subprocess.Popen([sys.executable, "-c", CLAIMER, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    return [job_id for child in children for job_id in child.communicate(timeout=90)[0].split()]


async def test_two_processes_never_claim_the_same_job(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    store = await JobStore.open(path)
    for number in range(60):
        await store.add(pending_job(f"discord:{number % 4}"), NO_QUEUE_LIMITS)
    claimed = await asyncio.to_thread(claimed_by_two, path)
    assert len(claimed) == len(set(claimed)) == 60
    await is_consistent(store)
    await store.close()
