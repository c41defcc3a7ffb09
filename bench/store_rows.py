"""Compare look-ups, claims and lists in a store of 1,000 and of 1,000,000 jobs: `python -m bench.store_rows`.

In both, nine of ten jobs of the last year have ended and the others wait, of many owners. Each figure is the lower
quartile over many calls through the store, because other load on the machine disturbs half of the calls or more.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from engine.database.job_store import JobStore, ProgressUpdate
from engine.database.rows import to_row, to_us
from engine.database.sql import QUERIES
from engine.jobs.entity import new_job_id
from engine.jobs.job import Job, JobStatus, Stage
from tests.fixtures.jobs import NO_QUEUE_LIMITS, START, pending_job, result_of, waiting_ids

_UPDATE_COUNTS = (
    "UPDATE counters SET jobs = (SELECT count(*) FROM jobs WHERE jobs.status = counters.status)",
    """
    INSERT INTO owners (owner, pending, running, oldest_pending)
    SELECT owner, sum(status = 'pending'), 0, min(iif(status = 'pending', created_at, NULL)) FROM jobs GROUP BY owner
    """,
)


def rows(count: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Generate jobs of the last year by time, with one owner per 20 jobs; the newest tenth is pending."""
    template = pending_job(title="A Song With a Name of the Usual Length")
    row, result = to_row(template), result_of(template).model_dump_json()
    result = result.replace(template.id, "{id}")
    step = timedelta(days=365) / count
    for number in range(count):
        at = START - timedelta(days=365) + number * step
        is_over = number < count * 0.9
        job_id = new_job_id(at)
        yield row | {
            "id": job_id,
            "owner": f"discord:{chance.randrange(max(1, count // 20))}",
            "created_at": to_us(at),
            "updated_at": to_us(at),
            "status": JobStatus.COMPLETED if is_over else JobStatus.PENDING,
            "result": result.replace("{id}", job_id) if is_over else None,
        }


def fill(path: Path, count: int) -> tuple[list[str], list[str]]:
    """Insert the rows without triggers, which are slow; return some ids and owners."""
    chance = random.Random(count)
    connection = sqlite3.connect(path, isolation_level=None)
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA cache_size=-1500000")  # KiB: the whole file, for fast indexes
    connection.execute("BEGIN")
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    connection.executemany(QUERIES["add_job"], rows(count, chance))
    for query in _UPDATE_COUNTS:
        connection.execute(query)
    for _, sql in triggers:
        connection.execute(sql)
    connection.execute("COMMIT")
    sample = "SELECT id, owner FROM jobs WHERE rowid % max(1, (SELECT max(rowid) FROM jobs) / 1000) = 0"
    found = connection.execute(sample).fetchall()
    connection.close()
    chance.shuffle(found)
    return [row[0] for row in found], [row[1] for row in found]


@dataclass
class StoreCase:
    """A store with ids and owners to query."""

    store: JobStore
    rows: int
    ids: list[str]
    owners: list[str]
    opening_s: float
    waiting: list[str]
    running: list[Job]


Call = Callable[[StoreCase, int], Awaitable[object]]


async def open_store(folder: Path, count: int) -> StoreCase:
    path = folder / f"{count}.sqlite3"
    await (await JobStore.open(path)).close()
    began = time.perf_counter()
    ids, owners = await asyncio.to_thread(fill, path, count)
    filled = time.perf_counter()
    store = await JobStore.open(path)
    opened = time.perf_counter()
    print(f"{count:,} jobs, {path.stat().st_size / 2**20:,.0f} MiB, created in {filled - began:.0f} s", file=sys.stderr)
    waiting = (await waiting_ids(store, limit=count))[-20:]
    return StoreCase(store, count, ids, owners, opened - filled, waiting, [])


async def time_calls(call: Call, stores: Sequence[StoreCase], calls: int) -> list[list[float]]:
    """Return the microseconds of each call, by store; the stores take turns, so that other load affects both."""
    spent: list[list[float]] = [[] for _ in stores]
    for number in range(calls):
        for case, of_this in zip(stores, spent, strict=True):
            began = time.perf_counter()
            await call(case, number)
            of_this.append((time.perf_counter() - began) * 1e6)
    return spent


async def accept(case: StoreCase, number: int) -> None:
    await case.store.add(pending_job("discord:new", at=START + timedelta(seconds=number)), NO_QUEUE_LIMITS)


async def claim(case: StoreCase, _number: int) -> None:
    job = await case.store.claim()
    assert job is not None
    case.running.append(job)


async def save(case: StoreCase, number: int) -> None:
    assert await case.store.save_progress([ProgressUpdate(case.running[number].id, 1, Stage.SEPARATING, 50)])


async def complete(case: StoreCase, number: int) -> None:
    job = case.running[number]
    assert await case.store.complete(job.id, 1, result_of(job), 1)


CALLS: dict[str, tuple[Call, int]] = {
    "look-up by id": (lambda it, number: it.store.get(it.ids[number % len(it.ids)]), 1000),
    "list a user's jobs": (
        lambda it, number: it.store.list_by_owner(it.owners[number % len(it.owners)], limit=25),
        1000,
    ),
    "list the active ones": (
        lambda it, number: it.store.list_by_owner(it.owners[number % len(it.owners)], limit=25, active_only=True),
        1000,
    ),
    "counts by status": (lambda it, _: it.store.counts(), 1000),
    "accept": (accept, 400),
    "claim": (claim, 400),
    "save progress": (save, 400),
    "complete": (complete, 400),
    "position in the queue *": (lambda it, number: it.store.standing(it.waiting[number % len(it.waiting)]), 40),
}


async def measure(folder: Path, sizes: Sequence[int]) -> bool:
    """Print the table; return whether all figures without a star are at most twice as slow."""
    stores = [await open_store(folder, size) for size in sizes]
    print(f"\n{'lower quartile (median), µs':28} {sizes[0]:>18,} {sizes[1]:>18,}   ratio")
    within = True
    for name, (call, calls) in CALLS.items():
        small, large = await time_calls(call, stores, calls)
        quick = [quantiles(of, n=4)[0] for of in (small, large)]
        ratio = quick[1] / quick[0]
        within &= name.endswith("*") or ratio <= 2
        shown = [f"{best:9.0f} ({median(of):6.0f})" for best, of in zip(quick, (small, large), strict=True)]
        print(f"{name:28} {shown[0]} {shown[1]} {ratio:7.2f}")
    small_s, large_s = (case.opening_s for case in stores)
    print(f"{'open, once *':28} {small_s * 1e6:18.0f} {large_s * 1e6:18.0f} {large_s / small_s:7.2f}")
    print("\n* grows with the number of waiting owners, which is limited, or happens once")
    for case in stores:
        await case.store.close()
    return within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=(1_000, 1_000_000), metavar=("SMALL", "LARGE"))
    sizes = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        if not asyncio.run(measure(Path(folder), sizes)):
            sys.exit("more than twice as slow in the large store")


if __name__ == "__main__":
    main()
