"""A hundred jobs of twenty people at once: all end, nobody waits behind somebody else's pile, and every command is
acknowledged at once all the while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.fake_discord import FakeDiscord, Interaction, Message, Person, Upload
from tests.acceptance.running import RunningBot, workers_of
from tests.songs import make_song
from tests.tiny_models import write_model

PEOPLE, SONGS = 20, 5
ACK_P99_S = 0.25


@pytest.mark.timeout(600)
async def test_a_hundred_jobs_all_end_in_fair_order_and_every_command_is_acknowledged_at_once(tmp_path: Path) -> None:
    write_model(tmp_path / "models")
    make_song(tmp_path / "song.mp3", seconds=0.5)
    song = Upload("song.mp3", (tmp_path / "song.mp3").read_bytes())
    async with FakeDiscord() as fake:
        band = fake.guild()
        variables = {
            "STEMIFY_MODELS_DIR": str(tmp_path / "models"),
            "STEMIFY_LIMITS__QUEUED_PER_SCOPE": "200",
            "STEMIFY_DISCORD__EDIT_INTERVAL_S": "4",
            "STEMIFY_WORKERS__HEARTBEAT_TIMEOUT_S": "600",
            "STEMIFY_WORKERS__STALL_TIMEOUT_S": "600",
            "STEMIFY_WORKERS__START_TIMEOUT_S": "600",
        }
        async with RunningBot(fake, tmp_path / "data", variables=variables) as bot:
            # The worker stands still until all have asked: so all hundred are queued at once.
            (worker,) = workers_of(bot)
            os.kill(worker, signal.SIGSTOP)
            people = [(Person(fake, f"p{n}"), fake.channel(band, f"room {n}")) for n in range(PEOPLE)]
            asked: list[Interaction] = []
            early, late = people[: PEOPLE // 2], people[PEOPLE // 2 :]
            # Half of the people bring all their songs at once, before the others come: by age alone these would wait.
            in_this_order = [each for each in early for _ in range(SONGS)] + late * SONGS
            for person, room in in_this_order:
                asked.append(await person.slash(room, "stemify", file=song, quality="fast"))
                await asyncio.sleep(0.01)
            await fake.until(lambda: all(i.acked_at for i in asked), "the acknowledgements", 60)
            await fake.until(lambda: len(jobs_by_end(bot)) == PEOPLE * SONGS, "a hundred accepted jobs", 240)
            os.kill(worker, signal.SIGCONT)
            messages = [interaction.answer for interaction in asked]
            await fake.until(lambda: all(ended_at(message) for message in messages), "a hundred ends", 500)
            await fake.until(
                lambda: all(len(fake.mentions_of(person.user)) == SONGS for person, _ in people), "the mentions", 120
            )
            served = jobs_by_end(bot)
            assert "Traceback" not in bot.log(), bot.log()
    assert len(fake.rate_limited()) <= 1
    acks = sorted(interaction.ack_s for interaction in asked)
    print(
        f"acknowledged: median {acks[len(acks) // 2] * 1000:.0f} ms, p99 {acks[-2] * 1000:.0f} ms, max {acks[-1]:.3f} s"
    )
    assert acks[int(len(acks) * 0.99) - 1] <= ACK_P99_S
    assert_fair(served)


def ended_at(message: Message) -> float:
    return next((at for at, text in message.versions if "Split into" in text), 0.0)


def jobs_by_end(bot: RunningBot) -> list[str]:
    """The owner of every accepted job, in the order in which the jobs ended (as far as they have)."""
    with contextlib.closing(sqlite3.connect(bot.folder / "stemify.sqlite3")) as database:
        return [owner for (owner,) in database.execute("SELECT owner FROM jobs ORDER BY updated_at")]


def assert_fair(served: list[str]) -> None:
    """While everybody has songs waiting, nobody is far ahead: only what was claimed before the others had asked."""
    done: Counter[str] = Counter()
    for owner in served:
        done[owner] += 1
        behind = min(done[other] for other in set(served))
        assert done[owner] - behind <= 3, f"one had {done[owner]} songs when another had {behind}"
