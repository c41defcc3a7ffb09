"""A fake Discord, people in it, and the real bot in a process of its own over a scripted backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.discord import Channel, FakeDiscord, Interaction, Message, Person, Upload
from tests.fakes.discord.state import EVERYDAY, MANAGE_GUILD, MANAGE_MESSAGES
from tests.fixtures.bot_process import RunningBot

SONG = Upload("Blue Hour.mp3", b"not really a song")


class Stage:
    """A server with a channel, people, and a bot whose backend does what the test says."""

    def __init__(self, fake: FakeDiscord, folder: Path) -> None:
        self.fake = fake
        self.band = fake.guild()
        self.bot = RunningBot(fake, folder, scripted=True)
        self.songs: Channel
        self.ann: Person
        self.bob: Person
        self.chief: Person

    async def fresh(self) -> None:
        """People and a channel of one's own."""
        self.songs = self.fake.channel(self.band)
        self.ann, self.bob = Person(self.fake, "ann"), Person(self.fake, "bob")
        self.chief = Person(self.fake, "chief", permissions=EVERYDAY | MANAGE_GUILD | MANAGE_MESSAGES)
        self.fake.faults.clear()
        self.bot.script()
        await self.fake.gateway.dispatch("CHANNEL_CREATE", self.songs.json())

    async def ask(self, song: Upload = SONG, **options: object) -> tuple[Interaction, Message]:
        """Ann asks for a song; the interaction and the job's message, once it shows something."""
        interaction = await self.ann.slash(self.songs, "stemify", file=song, **options)
        return interaction, await self.ann.answered(interaction)

    async def says(self, message: Message, part: str) -> None:
        await self.fake.until(lambda: part in message.text, f"{part!r} in the message")

    async def true(self, what: Callable[[], object], told: str = "") -> None:
        await self.fake.until(what, told)

    async def announced(self, person: Person) -> Message:
        """The one message that notified this person; more than one is an error."""
        await self.fake.until(lambda: self.fake.mentions_of(person.user), f"a mention of {person.user.name}")
        (message,) = self.fake.mentions_of(person.user)
        return message

    async def private(self, interaction: Interaction) -> str:
        """What only the one who asked was told."""
        await self.fake.until(
            lambda: interaction.followups or (interaction.original is not None and interaction.original.ephemeral),
            "a private answer",
        )
        message = (interaction.followups or [interaction.answer])[-1]
        await self.fake.until(lambda: not message.loading, "the private answer's text")
        assert message.ephemeral, message.text
        return message.text


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with FakeDiscord() as fake:
        stage = Stage(fake, tmp_path_factory.mktemp("bot") / "data")
        async with stage.bot:
            yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def stage(running_stage: Stage) -> Stage:
    """One bot a module; people, channel and script anew for every test."""
    await running_stage.fresh()
    return running_stage
