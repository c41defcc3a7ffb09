"""How the bot introduces itself: the invite link, the welcome, `/help` and `/privacy`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import FakeDiscord, Message, Person
from tests.fakes.discord.state import SEND, Guild
from tests.fixtures.bot_process import RunningBot

pytestmark = pytest.mark.asyncio(loop_scope="module")


def posted(guild: Guild) -> list[Message]:
    return [message for channel in guild.channels for message in channel.visible()]


async def test_welcome_goes_where_the_bot_may_write(stage: Stage) -> None:
    await stage.bot.logs("connected to discord")
    guild = stage.fake.guild("Trio")
    guild.system_channel = stage.fake.channel(guild, "lobby")
    guild.system_channel.bot_permissions &= ~SEND
    chat = stage.fake.channel(guild, "chat")
    await stage.fake.gateway.join(guild)
    await stage.until(lambda: posted(guild), "the welcome")
    (message,) = posted(guild)
    assert message.channel is chat


async def test_help_states_the_rules_of_the_server(stage: Stage) -> None:
    answer = await stage.private(await stage.ann.slash(stage.songs, "help"))
    assert "5 songs an hour" in answer and "model htdemucs, quality balanced, format mp3" in answer
    await stage.private(await stage.chief.slash(stage.songs, "settings limit", songs=2))
    await stage.private(await stage.chief.slash(stage.songs, "settings defaults", format="flac"))
    answer = await stage.private(await stage.ann.slash(stage.songs, "help"))
    assert "2 songs an hour" in answer and "format flac" in answer
    await stage.private(await stage.chief.slash(stage.songs, "settings limit"))


async def test_help_names_every_command_and_menu(stage: Stage) -> None:
    answer = await stage.private(await stage.ann.slash(stage.songs, "help"))
    named = {each["name"] if each.get("type", 1) != 1 else f"/{each['name']}" for each in stage.fake.commands}
    assert len(named) > 8
    assert [name for name in named - {"/help"} if name not in answer] == []


async def test_privacy_states_what_is_stored(stage: Stage) -> None:
    for channel in (stage.songs, stage.fake.dm_of(stage.ann.user)):
        answer = await stage.private(await stage.ann.slash(channel, "privacy"))
        for part in (
            "3 days after it was split",
            "90 days, or with *Keep*",
            "operator's machine",
            "no links",
            "/job delete",
        ):
            assert part in answer, answer


async def test_new_server_gets_one_welcome(stage: Stage) -> None:
    await stage.bot.logs("connected to discord")
    guild = stage.fake.guild("Quartet")
    stage.fake.channel(guild, "rules")
    guild.system_channel = stage.fake.channel(guild, "lobby")
    await stage.fake.gateway.join(guild)
    await stage.until(lambda: posted(guild), "the welcome")
    await stage.bot.stop()
    await stage.bot.start()
    await stage.finish_job()  # the bot has handled the servers that Discord reported after the restart
    (message,) = posted(guild)
    assert message.channel is guild.system_channel
    for part in (
        "`/stemify`",
        "Apps → Stemify",
        "`/listen`",
        "`/help`",
        "`/privacy`",
        "`/settings`",
        "5 songs an hour",
    ):
        assert part in message.text, message.text
    assert f"run by <@{stage.fake.bot.id}>" in message.text


async def test_configured_operator_shows_in_privacy_and_log(tmp_path: Path) -> None:
    """The operator's name and model, and no user install without the setting."""
    async with FakeDiscord() as fake:
        band, foreign = fake.guild("Band"), fake.guild("Foreign", bot_is_member=False)
        songs, elsewhere = fake.channel(band), fake.channel(foreign)
        variables = {
            "STEMIFY_DISCORD__CONTACT": "Jo, jo@example.org",
            "STEMIFY_DISCORD__DEFAULT_MODEL": "mdx_extra_q",
            "STEMIFY_DISCORD__USER_INSTALL": "false",
            "STEMIFY_WEB__PUBLIC_URL": "https://stems.example.org",
            "STEMIFY_RETENTION__INPUT_DAYS": "0",
        }
        async with RunningBot(fake, tmp_path / "data", scripted=True, variables=variables) as bot:
            await bot.logs(f"/oauth2/authorize?client_id={fake.application_id}&scope=bot+applications.commands&permis")
            await bot.logs("discord.default_model: mdx_extra_q cannot be used here (needs diffq). Songs are split with")
            ann = Person(fake, "ann")
            answer = await ann.answered(await ann.slash(songs, "privacy"))
            assert "run by Jo, jo" in answer.text and "example.org." in answer.text
            assert "until it is split" in answer.text and "A link on a result works for everyone" in answer.text
            with pytest.raises(PermissionError):
                await ann.slash(elsewhere, "stemify", file=SONG)
