"""A hundred jobs of twenty people at once: all end, nobody waits behind somebody else's pile, and every command is
acknowledged at once all the while."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.fake_discord import FakeDiscord, Interaction, Message, Person, Upload
from tests.acceptance.running import RunningBot
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
        }
        async with RunningBot(fake, tmp_path / "data", variables=variables) as bot:
            people = [(Person(fake, f"p{n}"), fake.channel(band, f"room {n}")) for n in range(PEOPLE)]
            asked: list[Interaction] = []
            for _ in range(SONGS):
                for person, room in people:
                    asked.append(await person.slash(room, "stemify", file=song, quality="fast"))
                    await asyncio.sleep(0.01)
            await fake.until(lambda: all(i.acked_at for i in asked), "the acknowledgements", 60)
            messages = [interaction.answer for interaction in asked]
            await fake.until(lambda: all(ended_at(message) for message in messages), "a hundred ends", 500)
            await fake.until(
                lambda: all(len(fake.mentions_of(person.user)) == SONGS for person, _ in people), "the mentions", 120
            )
            assert "Traceback" not in bot.log(), bot.log()
    assert len(fake.rate_limited()) <= 1
    acks = sorted(interaction.ack_s for interaction in asked)
    print(
        f"acknowledged: median {acks[len(acks) // 2] * 1000:.0f} ms, p99 {acks[-2] * 1000:.0f} ms, max {acks[-1]:.3f} s"
    )
    assert acks[int(len(acks) * 0.99) - 1] <= ACK_P99_S
    assert_fair(
        [(ended_at(message), interaction.user.id) for interaction, message in zip(asked, messages, strict=True)]
    )


def ended_at(message: Message) -> float:
    return next((at for at, text in message.versions if "Split into" in text), 0.0)


def assert_fair(ends: list[tuple[float, int]]) -> None:
    """While everybody has songs waiting, nobody is far ahead."""
    done: Counter[int] = Counter()
    for _, user in sorted(ends):
        done[user] += 1
        behind = min(done[user] for _, user in ends)
        assert done[user] - behind <= 3, f"one had {done[user]} songs when another had {behind}"
