"""A bot whose operator allows only one server."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.conftest import SONG
from tests.fakes.discord import FakeDiscord, Person
from tests.fakes.discord.state import EVERYDAY, MANAGE_GUILD
from tests.fixtures.bot_process import RunningBot


async def test_songs_are_accepted_in_allowed_servers_only(tmp_path: Path) -> None:
    async with FakeDiscord() as fake:
        band, other = fake.guild("Band"), fake.guild("Other")
        user_install = fake.guild("Elsewhere", bot_is_member=False)
        variables = {"STEMIFY_DISCORD__ALLOWED_GUILDS": str(band.id)}
        async with RunningBot(fake, tmp_path / "data", scripted=True, variables=variables) as bot:
            bot.script(hold=["claim"])
            ann = Person(fake, "ann", permissions=EVERYDAY | MANAGE_GUILD)
            allowed = await ann.slash(fake.channel(band), "stemify", file=SONG)
            message = await ann.answered(allowed)
            await fake.until(lambda: "Next in the queue" in message.text, "the job's card")
            for guild in (other, user_install):
                refused = await ann.answered(await ann.slash(fake.channel(guild), "stemify", file=SONG))
                assert refused.text == (
                    f"This bot may not be used in this server. Ask its operator to allow the server {guild.id}."
                )
            direct = await ann.answered(await ann.slash(fake.dm_of(ann.user), "stemify", file=SONG))
            assert "only accepts songs in servers" in direct.text
            listening = await ann.answered(await ann.slash(fake.channel(other), "listen", mode="auto"))
            assert "may not be used in this server" in listening.text
