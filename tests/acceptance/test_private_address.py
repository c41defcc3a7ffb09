"""A bot whose page cannot be reached from the internet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import SONG
from tests.fakes.discord import FakeDiscord, Person
from tests.fixtures.bot_process import RunningBot


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080", "http://192.168.1.20:8080", "http://nas.local"])
async def test_private_page_is_linked_nowhere_and_logged_once(tmp_path: Path, address: str) -> None:
    async with FakeDiscord() as fake:
        bot = RunningBot(
            fake,
            tmp_path / "data",
            scripted=True,
            variables={"STEMIFY_WEB__PUBLIC_URL": address, "TEST_PAUSE_S": "0.3"},
        )
        bot.script(stem_bytes=11 * 1024 * 1024)
        async with bot:
            channel, ann = fake.channel(fake.guild()), Person(fake, "ann")
            message = await ann.answered(await ann.slash(channel, "stemify", file=SONG))
            await fake.until(lambda: fake.mentions_of(ann.user), "the announcement")
            (announcement,) = fake.mentions_of(ann.user)
            assert not [button for button in message.buttons() if "url" in button] and address not in message.text
            assert "Vocals, Drums, Bass and Other are too large to attach here (10 MB at most)." in announcement.text
            await fake.gateway.close(4004)
            await fake.until(lambda: fake.gateway.identifies == 2, "another connection")
            warnings = [line for line in bot.log().splitlines() if "Set STEMIFY_WEB__PUBLIC_URL" in line]
            assert len(warnings) == 1 and address in warnings[0]
