"""The same song twice in one channel of the fake Discord, with the real bot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.discord import FakeDiscord, Message, Person, Upload
from tests.fixtures.bot_process import RunningBot
from tests.fixtures.log_file import assert_jobs_go_forward_only, events
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model


@pytest.mark.timeout(400)
async def test_second_member_gets_the_result_at_once(tmp_path: Path) -> None:
    write_model(tmp_path / "models")
    make_song(tmp_path / "song.mp3", seconds=2)
    song = Upload("song.mp3", (tmp_path / "song.mp3").read_bytes())
    variables = {
        "STEMIFY_MODELS_DIR": str(tmp_path / "models"),
        "STEMIFY_RETENTION__REUSE_RESULTS": "true",
        "STEMIFY_LOG__JSON_LINES": "true",
    }
    async with FakeDiscord() as fake, RunningBot(fake, tmp_path / "data", variables=variables) as bot:
        channel = fake.channel(fake.guild())

        async def ask(name: str) -> Message:
            """Submit the song as a new member; return its message once the stems are announced."""
            person = Person(fake, name)
            message = await person.answered(await person.slash(channel, "stemify", file=song, quality="fast"), 60)
            await fake.until(lambda: "stems ·" in message.text, "the stems", 100)
            await fake.until(lambda: fake.mentions_of(person.user), "the mention", 60)
            assert len(fake.mentions_of(person.user)[0].attachments) == 4
            return message

        assert "Separated on " not in (await ask("ann")).text
        assert "Separated on " in (await ask("bob")).text
    histories = assert_jobs_go_forward_only(events(bot.log_path)).values()
    assert sorted(sorted(history) for history in histories) == [
        ["accepted", "completed"],
        ["accepted", "completed", "started"],
    ]
