"""Run the real store, queue, dispatcher and service with 1, 8, 64 and 256 simulated GPUs: `python -m bench.scale_out`.

Prints the load of the devices, the waiting times of users and the CPU time of the main process, once with a queue that
is never empty and once for a day of users. See bench/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any, cast

from bench.report import OUT, table
from bench.simulation import DeviceTimes, SimulatedLoop, SimulatedPool, run_simulated
from config.settings import load
from engine.database.job_store import JobStore
from engine.database.queue_limits import QueueLimits
from engine.database.quota import Quota
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.progress import ProgressTracker
from engine.dispatch.runner import JobRunner
from engine.jobs.entity import new_job_id
from engine.jobs.job import InputType, Job, JobStatus
from engine.jobs.options import StemSeparationOptions
from engine.mixes.mixer import Mixer
from engine.pool.handle import PoolLimits
from engine.service.intake import Intake
from engine.service.links import Links
from engine.service.resubmission import Resubmission
from engine.service.service import StemService
from engine.service.views import JobPresenter
from engine.sources.fetch import FetchedInput
from engine.storage.local import LocalStorage

POOL = PoolLimits(
    attempts_per_worker=3, heartbeat_timeout_s=15, stall_timeout_s=120, start_timeout_s=120, cancel_grace_s=1.5
)
WORKERS = load().workers.model_copy(update={"attempts_per_worker": 3})
NO_QUEUE_LIMITS = QueueLimits(per_owner=10**9, per_scope=10**9, total=10**9)

SONG_S = (60.0, 210.0, 600.0)  # triangular distribution: low, mode, high
MODELS = (("htdemucs", 1.0, 0.9), ("htdemucs_ft", 4.0, 0.1))  # name, cost relative to htdemucs, share of the jobs
HOURS = (30, 20, 14, 10, 9, 10, 14, 20, 28, 36, 42, 48, 54, 56, 58, 62, 68, 76, 86, 95, 100, 96, 78, 50)
"""Load of each hour of a day, in percent of the busiest."""
CLASSES = (("light: 1 song", 0.70, 1), ("regular: 2 songs", 0.25, 2), ("heavy: 5 songs", 0.05, 5))
"""Kinds of users: name, share of the users, songs sent at once (the quota allows 5 an hour)."""


@dataclass
class Person:
    """A user who sends some songs at once."""

    name: str
    kind: str
    songs: int


@dataclass
class Figures:
    """Measurements of a run."""

    sent_at: dict[str, float] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    waited_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    completed: int = 0
    writes: int = 0  # transactions


class People:
    """Generates users and their songs, seeded."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._count = 0

    def next(self) -> Person:
        self._count += 1
        (kind,) = self._chance.choices(CLASSES, [share for _, share, _ in CLASSES])
        return Person(f"discord:{self._count}", kind[0], kind[2])

    def pause_s(self, people_per_s: float) -> float:
        return self._chance.expovariate(people_per_s)

    def song(self) -> tuple[str, float, float]:
        """Return the model, its cost and the seconds of audio."""
        ((model, cost, _),) = self._chance.choices(MODELS, [share for *_, share in MODELS])
        low, mode, high = SONG_S
        return model, cost, self._chance.triangular(low, high, mode)


MEAN_SONGS = sum(share * songs for _, share, songs in CLASSES)
MEAN_COST = sum(cost * share for _, cost, share in MODELS)
MEAN_SONG_S = sum(SONG_S) / 3


class MainProcess:
    """The real main process, without Discord, the web server and the network."""

    def __init__(self, loop: SimulatedLoop, store: JobStore, data: Path, devices: int, speed: float) -> None:
        self.loop, self.store, self.data, self.speed = loop, store, data, speed
        self.times, self.figures = DeviceTimes(), Figures()
        self.storage, self.live = LocalStorage(data), ProgressTracker()
        self.pool = SimulatedPool(devices, POOL, loop, self.times, data)
        quota = Quota(store.database, per_hour=5, now=loop.now)
        runner = JobRunner(store, self.storage, self.pool, _no_links, WORKERS, 600, self.live, quota)
        self.dispatcher = Dispatcher(store, runner, self.live, data / "handover.json", max_attempts=3)
        views = JobPresenter(store, self.pool, self.live, Links(b"k" * 32, "http://127.0.0.1"), timedelta(days=90))
        self.service = StemService(
            store,
            self.storage,
            self.pool,
            self.dispatcher,
            cast(Intake, None),
            cast(Resubmission, None),
            views,
            self.live,
            cast(Mixer, None),
        )
        self._followers: set[asyncio.Task[None]] = set()
        self._count_writes()

    def _count_writes(self) -> None:
        database, run_alone = self.store.database, self.store.database._alone

        async def count_and_run(step: Callable[[], Awaitable[Any]]) -> Any:
            self.figures.writes += 1
            return await run_alone(step)

        database._alone = count_and_run  # type: ignore[method-assign]

    async def send(self, person: Person, people: People, *, watched: bool) -> None:
        """Store the songs of a user and watch them as the bot does."""
        for _ in range(person.songs):
            model, cost, song_s = people.song()
            job_id = new_job_id(self.loop.now())
            self.times.seconds_of[job_id] = cost * song_s / self.speed
            with self.loop.uncounted():
                (self.data / "jobs" / job_id).mkdir(parents=True)
                (self.data / "jobs" / job_id / "input").touch()
            job = Job(
                id=job_id, status=JobStatus.PENDING, created_at=self.loop.now(), updated_at=self.loop.now(),
                input_type=InputType.FILE_UPLOAD, input_source=f"jobs/{job_id}/input", model=model,
                options=StemSeparationOptions(model=model), estimated_duration=max(1, round(song_s / 36)),
                owner=person.name, title="A Song With a Name of the Usual Length", input_duration=song_s,
            )  # fmt: skip
            self.figures.sent_at[job_id], self.figures.kinds[job_id] = self.loop.time(), person.kind
            await self.store.add(job, NO_QUEUE_LIMITS)
            self.dispatcher.wake()
            task = asyncio.ensure_future(self._follow(job_id, watched))
            self._followers.add(task)
            task.add_done_callback(self._followers.discard)

    async def _follow(self, job_id: str, watched: bool) -> None:
        if watched:
            async for view in self.service.watch(job_id):
                if view.job.is_over:
                    self.figures.completed += 1

    def on_start(self, job_id: str) -> None:
        kind = self.figures.kinds[job_id]
        self.figures.waited_s[kind].append(self.loop.time() - self.figures.sent_at[job_id])

    @property
    def busy_s(self) -> float:
        for device in self.pool.devices:
            device._share()
        return sum(device.busy_s for device in self.pool.devices)

    async def close(self) -> None:
        for task in list(self._followers):
            task.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)
        await self.dispatcher.stop(0)


async def _no_links(job: Job, on_progress: object) -> FetchedInput:
    raise AssertionError("this benchmark has no links")


def capacity(devices: int, speed: float) -> float:
    """Return the jobs per second that the devices can run."""
    return devices * speed / (MEAN_SONG_S * MEAN_COST)


def day_length_s(devices: int, args: argparse.Namespace) -> float:
    mean = args.peak * sum(HOURS) / len(HOURS) / 100
    return float(min(86400.0, args.day_jobs / (capacity(devices, args.speed) * mean)))


async def run(loop: SimulatedLoop, data: Path, args: argparse.Namespace, devices: int, *, day: bool) -> dict[str, Any]:
    store = await JobStore.open(data / "stemify.sqlite3", now=loop.now)
    main_process, people = MainProcess(loop, store, data, devices, args.speed), People(devices)
    await main_process.dispatcher.start()
    main_process.pool.begin(main_process.dispatcher.wake, main_process.on_start)
    source = asyncio.ensure_future(
        _simulate_day(main_process, people, args) if day else _fill_queue(main_process, people, args)
    )
    if not day:
        await asyncio.sleep(args.warm_up_s)
    loop.calibrate()
    wall, began, used, busy = time.time(), loop.time(), loop.used_s, main_process.busy_s
    completed_before, writes_before = main_process.figures.completed, main_process.figures.writes
    if day:
        await source
    else:
        await asyncio.sleep(args.seconds)
    passed_s, used_s = loop.time() - began, loop.used_s - used
    completed = main_process.figures.completed - completed_before
    row = {
        "devices": devices,
        "load": "a day" if day else "full",
        "jobs": completed,
        "jobs/s": completed / passed_s,
        "utilisation": (main_process.busy_s - busy) / (devices * passed_s),
        "main_cores": used_s / passed_s,
        "ms_a_job": 1000 * used_s / max(1, completed),
        "writes/s": (main_process.figures.writes - writes_before) / passed_s,
        "lines/s": sum(device.lines for device in main_process.pool.devices) / loop.time(),
    }
    if day:
        row["day_h"] = day_length_s(devices, args) / 3600
    row |= dict(_waits(main_process.figures.waited_s))
    source.cancel()
    await asyncio.gather(source, return_exceptions=True)
    await main_process.close()
    await store.close()
    print(f"{devices} devices, {row['load']}: {time.time() - wall:.0f} s for {passed_s:.0f} s", file=sys.stderr)
    return row


def _waits(waited_s: dict[str, list[float]]) -> Iterator[tuple[str, float]]:
    for name, _, _ in CLASSES:
        waits = waited_s[name]
        kind = name.partition(":")[0]
        cuts = quantiles(waits, n=20) if len(waits) > 1 else [0.0] * 19
        yield f"{kind}_mean_s", sum(waits) / max(1, len(waits))
        yield f"{kind}_p95_s", cuts[18]


async def _fill_queue(main_process: MainProcess, people: People, args: argparse.Namespace) -> None:
    """Keep `backlog` jobs in the queue."""
    wanted = args.backlog
    while True:
        counts = await main_process.store.counts()
        missing = wanted - counts.get(JobStatus.PENDING, 0)
        while missing > 0:
            person = people.next()
            await main_process.send(person, people, watched=True)
            missing -= person.songs
        await asyncio.sleep(0.2)


async def _simulate_day(main_process: MainProcess, people: People, args: argparse.Namespace) -> None:
    """Simulate the users of a day, shortened to `day_jobs` jobs at an unchanged rate."""
    busiest = args.peak * capacity(len(main_process.pool.devices), args.speed) / MEAN_SONGS
    day_s = day_length_s(len(main_process.pool.devices), args)
    ends = main_process.loop.time() + day_s
    while (left_s := ends - main_process.loop.time()) > 0:
        hour = min(23, int(24 * (1 - left_s / day_s)))
        await asyncio.sleep(people.pause_s(busiest * HOURS[hour] / 100))
        await main_process.send(people.next(), people, watched=True)
    while (await main_process.store.counts()).get(JobStatus.PENDING, 0):  # noqa: ASYNC110
        await asyncio.sleep(1.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale_out", description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--speed", type=float, default=36, help="speed of a device, x real time with htdemucs (36)")
    parser.add_argument("--seconds", type=float, default=60, help="measured seconds of full load (60)")
    parser.add_argument("--warm-up-s", type=float, default=20)
    parser.add_argument("--backlog", type=int, default=232, help="waiting jobs (232)")
    parser.add_argument("--day-jobs", type=float, default=2000, help="jobs per day; sets its length (2000)")
    parser.add_argument("--peak", type=float, default=0.9, help="load of the busiest hour, share of the capacity (0.9)")
    parser.add_argument("--only", choices=["full", "day"])
    args = parser.parse_args()
    rows = []
    for day in (False, True):
        if args.only == ("full" if day else "day"):
            continue
        for devices in args.devices:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(run_simulated(lambda loop: run(loop, Path(folder), args, devices, day=day)))  # noqa: B023
    for kind in ("full", "a day"):
        print(table(f"Load: {kind}; devices run at {args.speed:g} x real time", [r for r in rows if r["load"] == kind]))
    OUT.mkdir(exist_ok=True)
    (OUT / "scale_out.json").write_text(json.dumps({"speed": args.speed, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
