"""A crowd that brings many songs at once, over Discord and over the API; what it was told, and what the bot did
meanwhile. The test has a small crowd, `python -m bench.load` a large one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.acceptance.fake_discord import Channel, FakeDiscord, Interaction, Message, Person, Upload
from tests.acceptance.running import RunningBot, workers_of

VARIABLES = {
    "STEMIFY_LIMITS__QUEUED_PER_SCOPE": "1000",
    "STEMIFY_WEB__TRUSTED_PROXIES": "127.0.0.1",  # so that each person of the API has an address of their own
    "STEMIFY_DISCORD__EDIT_INTERVAL_S": "4",
    "STEMIFY_WORKERS__HEARTBEAT_TIMEOUT_S": "3600",
    "STEMIFY_WORKERS__STALL_TIMEOUT_S": "3600",
    "STEMIFY_WORKERS__START_TIMEOUT_S": "3600",
    "STEMIFY_LOG__JSON_LINES": "true",
}
_PAUSE_S = 0.01  # between two songs
_SAMPLE_S = 1.0


@dataclass(frozen=True)
class Sample:
    """The main process at one moment."""

    at_s: float
    resident_bytes: int
    over: int  # jobs that have ended


@dataclass
class Crowd:
    """`await Crowd(bot, song, …).brings_everything()`; afterwards the figures are there."""

    bot: RunningBot
    song: Path
    on_discord: int  # people
    on_api: int
    songs_each: int
    patience_s: float

    acks_s: list[float] = field(default_factory=list)  # of Discord's commands
    answers_s: list[float] = field(default_factory=list)  # of the API's 202, which come after the upload was looked at
    samples: list[Sample] = field(default_factory=list)
    served: list[str] = field(default_factory=list)  # the owner of every job, in the order in which the jobs ended
    late_s: list[float] = field(default_factory=list)
    """By how much the machine let this process, which has little to do, oversleep while the songs came."""
    api_ends: Counter[str] = field(default_factory=Counter)
    people: list[tuple[Person, Channel]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def songs(self) -> int:
        return (self.on_discord + self.on_api) * self.songs_each

    async def brings_everything(self) -> None:
        """The worker stands still until all songs are there, so that all are queued at once; then it may work."""
        fake, began = self.bot.fake, time.monotonic()
        (worker,) = workers_of(self.bot)
        os.kill(worker, signal.SIGSTOP)
        async with _beside(self._sample(began)), asyncio.timeout(self.patience_s), asyncio.TaskGroup() as tasks:
            over_api = [tasks.create_task(self._one_on_api(number)) for number in range(self.on_api)]
            async with _beside(self._oversleep()):
                asked = await self._all_on_discord()
                await fake.until(lambda: all(each.acked_at for each in asked), "acknowledgements", self.patience_s)
            self.acks_s = sorted(each.ack_s for each in asked)
            while len(self._owners_by_end()) < self.songs:
                assert not any(task.done() and task.exception() for task in over_api)
                await asyncio.sleep(0.2)
            os.kill(worker, signal.SIGCONT)
            self.messages = [each.answer for each in asked]
            await fake.until(lambda: all(map(is_over, self.messages)), "every card's end", self.patience_s)
            await fake.until(
                lambda: all(len(fake.mentions_of(person.user)) == self.songs_each for person, _ in self.people),
                "the mentions",
                self.patience_s,
            )
        self.served = self._owners_by_end()
        self.took_s = time.monotonic() - began

    async def _all_on_discord(self) -> list[Interaction]:
        """Half of the people bring all their songs at once, before the others come: by age alone these would wait."""
        fake = self.bot.fake
        band = fake.guilds[0]
        song = Upload(self.song.name, self.song.read_bytes())
        self.people = [(Person(fake, f"p{n}"), fake.channel(band, f"room {n}")) for n in range(self.on_discord)]
        early, late = self.people[: self.on_discord // 2], self.people[self.on_discord // 2 :]
        asked = []
        for person, room in [each for each in early for _ in range(self.songs_each)] + late * self.songs_each:
            asked.append(await person.slash(room, "stemify", file=song, quality="fast"))
            await asyncio.sleep(_PAUSE_S)
        return asked

    async def _one_on_api(self, number: int) -> None:
        """Sends the songs one after another and watches each to its end, as the page does."""
        headers = {"X-Forwarded-For": f"10.1.{number // 250}.{number % 250 + 1}"}
        async with (
            aiohttp.ClientSession(self._page_url(), headers=headers, timeout=aiohttp.ClientTimeout(None)) as http,
            asyncio.TaskGroup() as watching,
        ):
            for _ in range(self.songs_each):
                form = aiohttp.FormData({"options": '{"quality": "fast"}'})
                form.add_field("file", self.song.read_bytes(), filename=self.song.name)
                sent = time.monotonic()
                async with http.post("/api/stemify", data=form) as answer:
                    assert answer.status == 202, await answer.text()
                    job_id = (await answer.json())["jobId"]
                self.answers_s.append(time.monotonic() - sent)
                watching.create_task(self._watch(http, job_id))

    async def _watch(self, http: aiohttp.ClientSession, job_id: str) -> None:
        async with http.get(f"/api/jobs/{job_id}/events") as stream:
            assert stream.status == 200, await stream.text()
            state = "lost"
            async for line in stream.content:
                if line.startswith(b"data:"):
                    state = json.loads(line.removeprefix(b"data:"))["status"]
            self.api_ends[state] += 1

    def _page_url(self) -> str:
        return str(re.findall(r"Stemify's page is at (\S+)", self.bot.log_path.read_text())[-1])

    def _owners_by_end(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(self.bot.folder / "stemify.sqlite3")) as database:
            return [owner for (owner,) in database.execute("SELECT owner FROM jobs ORDER BY updated_at")]

    def _over(self) -> int:
        with contextlib.closing(sqlite3.connect(self.bot.folder / "stemify.sqlite3")) as database:
            query = "SELECT sum(jobs) FROM counters WHERE status IN ('completed', 'failed')"
            return int(database.execute(query).fetchone()[0] or 0)

    async def _sample(self, began: float) -> None:
        assert self.bot.process is not None
        statm = Path(f"/proc/{self.bot.process.pid}/statm")
        while True:
            resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            over = await asyncio.to_thread(self._over)
            self.samples.append(Sample(time.monotonic() - began, resident, over))
            await asyncio.sleep(_SAMPLE_S)

    async def _oversleep(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_PAUSE_S)
            self.late_s.append(time.monotonic() - before - _PAUSE_S)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """While the block lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def is_over(message: Message) -> bool:
    return any("Split into" in text or "did not work" in text for _, text in message.versions)


def furthest_ahead(served: list[str]) -> int:
    """How many more songs somebody had than somebody else who still waited, at most. What was claimed before the
    others had asked counts, so it is a few even where the order is fair."""
    done: Counter[str] = Counter()
    most = 0
    for owner in served:
        done[owner] += 1
        most = max(most, done[owner] - min(done[other] for other in set(served)))
    return most


def busiest_minute(fake: FakeDiscord) -> int:
    """How many 429 were earned in the worst minute."""
    at = [seen.at for seen in fake.rate_limited()]
    return max((sum(begin <= each < begin + 60 for each in at) for begin in at), default=0)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
