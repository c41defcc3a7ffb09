"""A fake Discord with users, and the real bot in a separate process with a scripted backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.discord import Channel, FakeDiscord, Interaction, Message, Person, Upload
from tests.fakes.discord.state import EVERYDAY, MANAGE_GUILD, MANAGE_MESSAGES
from tests.fixtures.bot_process import RunningBot
from tests.fixtures.voice_hall import VoiceHall, open_hall

SONG = Upload("Blue Hour.mp3", bytes(200_000))  # of the size of a song
COMPARED = ("htdemucs", "hdemucs_mmi")


class Stage:
    """A server with a channel, users, and a bot with a scripted backend."""

    def __init__(self, fake: FakeDiscord, folder: Path) -> None:
        self.fake = fake
        self.band = fake.guild()
        self.bot = RunningBot(fake, folder, scripted=True, variables={"TEST_PAUSE_S": "0.3"})
        self.songs: Channel
        self.ann: Person
        self.bob: Person
        self.chief: Person

    async def reset(self) -> None:
        """Create a new channel and new users, and clear faults and script."""
        self.songs = self.fake.channel(self.band)
        self.ann, self.bob = Person(self.fake, "ann"), Person(self.fake, "bob")
        self.chief = Person(self.fake, "chief", permissions=EVERYDAY | MANAGE_GUILD | MANAGE_MESSAGES)
        self.fake.faults.clear()
        self.fake.blocked_words.clear()
        self.bot.script()
        await self.fake.gateway.dispatch("CHANNEL_CREATE", self.songs.json())

    async def ask(self, song: Upload = SONG, **options: object) -> tuple[Interaction, Message]:
        """Submit a song as Ann; return the interaction and the job's message once it has text."""
        interaction = await self.ann.slash(self.songs, "stemify", file=song, **options)
        return interaction, await self.ann.answered(interaction)

    async def shows(self, message: Message, part: str) -> None:
        await self.fake.until(lambda: part in message.text, f"{part!r} in the message")

    async def until(self, condition: Callable[[], object], description: str = "") -> None:
        await self.fake.until(condition, description)

    async def finish_job(self) -> None:
        _, message = await self.ask()
        await self.shows(message, "4 stems ·")

    async def more(self, person: Person, message: Message) -> Message:
        """Press *More* and return the private answer."""
        pressed = await person.press(message, "More")
        await self.private(pressed)
        return pressed.answer

    async def settings(self, name: str, *, person: Person | None = None, **options: Any) -> str:
        """Use a subcommand of `/settings`, as a manager by default, and return the answer."""
        return await self.private(await (person or self.chief).slash(self.songs, f"settings {name}", **options))

    async def reconnected(self, identifies: int) -> None:
        """Wait for another session than the first `identifies` ones."""
        await self.until(lambda: self.fake.gateway.identifies > identifies, "a new session")

    async def compare(self) -> tuple[Message, Message]:
        """Let Ann compare models; return the card, and the message with the files."""
        before = len(self.fake.mentions_of(self.ann.user))
        first = await self.ann.answered(await self.ann.slash(self.songs, "stemify", file=SONG))
        await self.until(lambda: len(self.fake.mentions_of(self.ann.user)) > before, "the stems")
        asked = await self.ann.press(await self.more(self.ann, first), "Try models on 30 s…")
        with pytest.raises(ValueError, match="models has no option"):
            await self.ann.fill(asked, models="htdemucs")
        card = await self.ann.answered(await self.ann.fill(asked, models="\n".join(COMPARED)))
        await self.shows(card, "Press the letter of the best one")
        await self.until(lambda: len(self.fake.mentions_of(self.ann.user)) > before + 1, "the files")
        return card, self.fake.mentions_of(self.ann.user)[-1]

    async def announced(self, person: Person) -> Message:
        """Return the only message that mentions this user; fail if there are more."""
        await self.fake.until(lambda: self.fake.mentions_of(person.user), f"a mention of {person.user.name}")
        (message,) = self.fake.mentions_of(person.user)
        return message

    async def private(self, interaction: Interaction) -> str:
        """Return the text of the private answer."""
        await self.fake.until(
            lambda: interaction.followups or (interaction.original is not None and interaction.original.ephemeral),
            "a private answer",
        )
        assert not interaction.followups or not interaction.answer.loading or interaction.answer.deleted
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
    """Return the module's stage, reset for this test."""
    await running_stage.reset()
    return running_stage


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running_hall(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VoiceHall]:
    async with open_hall(tmp_path_factory.mktemp("voice")) as hall:
        yield hall


@pytest_asyncio.fixture(loop_scope="module")
async def hall(running_hall: VoiceHall) -> AsyncIterator[VoiceHall]:
    """Return the module's hall; the bot has left when the test ends."""
    await running_hall.voice.join(running_hall.ann.user, running_hall.hall)
    yield running_hall
    await running_hall.leave()


@pytest_asyncio.fixture(loop_scope="module")
async def server(stage: Stage) -> Stage:
    """Return the stage with a new server, so that settings of other tests do not apply."""
    stage.band = stage.fake.guild("Choir")
    stage.songs = stage.fake.channel(stage.band)
    await stage.fake.gateway.join(stage.band)
    return stage
