"""Many jobs of many users at once, over Discord and the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.discord import FakeDiscord
from tests.fixtures.bot_process import RunningBot
from tests.fixtures.crowd import VARIABLES, Crowd, busiest_minute, furthest_ahead
from tests.fixtures.log_file import assert_jobs_go_forward_only, events
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("on_discord", "on_api"), [(4, 2), pytest.param(70, 30, marks=pytest.mark.nightly)])
async def test_many_jobs_end_in_fair_order(tmp_path: Path, on_discord: int, on_api: int) -> None:
    write_model(tmp_path / "models")
    make_song(tmp_path / "song.mp3", seconds=0.5)
    async with FakeDiscord() as fake:
        fake.guild()
        variables = {**VARIABLES, "STEMIFY_MODELS_DIR": str(tmp_path / "models")}
        async with RunningBot(fake, tmp_path / "data", variables=variables) as bot:
            crowd = Crowd(
                bot, tmp_path / "song.mp3", on_discord=on_discord, on_api=on_api, songs_each=3, patience_s=3000
            )
            await crowd.run()
    log = events(bot.log_path)
    assert not [event for event in log if "error" in event], "a traceback"
    histories = assert_jobs_go_forward_only(log)
    assert [history[-1] for history in histories.values()] == ["completed"] * (3 * (on_discord + on_api))
    assert all("stems ·" in message.text for message in crowd.messages)
    assert crowd.api_ends == {"completed": 3 * on_api}
    assert busiest_minute(fake) <= 1
    assert furthest_ahead(crowd.served) <= 3
