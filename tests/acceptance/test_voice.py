"""A song in a voice channel: the real bot, discord.py and player against a fake Discord with a voice server."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from engine.media.encode import StemEncoder
from engine.media.samples import Samples
from tests.acceptance.conftest import SONG
from tests.fakes.discord import Channel, FakeDiscord, Message, Person
from tests.fakes.discord.state import CONNECT, SPEAK
from tests.fakes.discord.voice import FakeVoice
from tests.fixtures.bot_process import RunningBot
from tests.fixtures.songs import tune
from tests.fixtures.voice_sound import decoded, resampled, snr_db

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]
SECONDS = 60
SILENCE = b"\xf8\xff\xfe"
STEMS: dict[str, Samples] = {name: 0.3 * tune(SECONDS, seed=seed) for seed, name in enumerate(("drums", "vocals"))}


class VoiceStage:
    """A server with a text and a voice channel, two users, and a bot that can play."""

    def __init__(self, fake: FakeDiscord, voice: FakeVoice, folder: Path) -> None:
        self.fake, self.voice = fake, voice
        self.band = fake.guild()
        self.songs = fake.channel(self.band)
        self.hall = fake.channel(self.band, "hall", kind=2)
        self.ann, self.bob = Person(fake, "ann"), Person(fake, "bob")
        self.bot = RunningBot(fake, folder, scripted=True, variables={"TEST_PAUSE_S": "0.3", **voice.variables})
        self.stems = folder.parent / "stems"
        self.title = 0

    async def prepare(self) -> None:
        self.stems.mkdir()
        for name, samples in STEMS.items():
            with StemEncoder(self.stems / f"{name}.flac", format="flac", sample_rate=44100) as encoder:
                encoder.write(samples)
        self.bot.script(stems=str(self.stems), stems_s=SECONDS)

    async def until(self, condition: Callable[[], object], description: str) -> None:
        async with asyncio.timeout(300):
            while not condition():
                assert self.bot.is_running, self.bot.log()
                await asyncio.sleep(0.02)
        assert condition(), description

    async def song(self) -> Message:
        """Return the card of a new completed job of Ann."""
        interaction = await self.ann.slash(self.songs, "stemify", file=SONG)
        card = await self.ann.answered(interaction)
        await self.until(lambda: "4 stems ·" in card.text, "a result")
        return card

    async def play(self, card: Message, person: Person | None = None) -> str:
        """Press *Play in voice*; return the answer."""
        pressed = await (person or self.ann).press(card, "Play in voice")
        await self.until(lambda: pressed.original is not None and not pressed.answer.loading, "an answer")
        assert pressed.answer.ephemeral
        return pressed.answer.text

    def control(self, channel: Channel | None = None) -> Message:
        return (channel or self.hall).visible()[-1]

    async def shows(self, part: str) -> None:
        """Wait until the control message has a part that matches the pattern."""
        await self.until(lambda: re.search(part, self.control().text), f"{part!r} in the control message")

    async def heard(self, count: int = 20) -> None:
        """Wait for new frames with sound."""
        start = len(self.voice.packets)
        await self.until(
            lambda: sum(packet.frame != SILENCE for packet in self.voice.packets[start:]) >= count, "sound"
        )

    async def leave(self) -> None:
        if self.voice.channel_of_bot.get(self.band.id) is not None:
            await self.ann.press(self.control(), "Stop")
            await self.until(lambda: self.voice.channel_of_bot[self.band.id] is None, "the bot to leave")

    def players(self) -> list[int]:
        """Return the process ids of the players."""
        assert self.bot.process is not None
        found = []
        for task in Path(f"/proc/{self.bot.process.pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                if b"engine.voice.child" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        return found


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running_hall(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VoiceStage]:
    folder = tmp_path_factory.mktemp("voice")
    async with FakeDiscord() as fake, FakeVoice(fake, folder) as voice:
        stage = VoiceStage(fake, voice, folder / "data")
        await stage.prepare()
        async with stage.bot:
            yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def hall(running_hall: VoiceStage) -> AsyncIterator[VoiceStage]:
    """Return the module's stage; the bot has left when the test ends."""
    await running_hall.voice.join(running_hall.ann.user, running_hall.hall)
    yield running_hall
    await running_hall.leave()


async def test_packets_hold_the_song_and_follow_its_switches(hall: VoiceStage) -> None:
    card = await hall.song()
    hall.voice.packets.clear()
    answer = await hall.play(card)
    assert "Playing" in answer and str(hall.control().id) in answer
    await hall.heard(150)
    frames = [packet.frame for packet in hall.voice.packets]
    first = next(index for index, frame in enumerate(frames) if frame != SILENCE)
    # A late player is followed by silence, which is not a part of the song.
    song = [frame for frame in frames[first:] if frame != SILENCE]
    wanted = resampled(STEMS["drums"] + STEMS["vocals"])
    assert snr_db(decoded(song)[:, 4800:], wanted[:, 7200:]) > 20
    sequences = [packet.sequence for packet in hall.voice.packets]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    await hall.ann.press(hall.control(), "Karaoke")
    await hall.shows("without vocals")
    await hall.heard(10)
    await hall.ann.press(hall.control(), "Vocals")
    await hall.until(lambda: "without" not in hall.control().text, "all stems")


async def test_buttons_change_what_is_played(hall: VoiceStage) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    await hall.ann.press(hall.control(), "⏯")
    await hall.shows("⏸")
    await hall.ann.press(hall.control(), "+10 s")
    await hall.shows("0:[1-5]")
    await hall.ann.press(hall.control(), "⏯")
    await hall.shows("▶")
    await hall.heard()
    await hall.ann.press(hall.control(), "Volume −")
    await hall.shows("volume 80%")
    await hall.ann.press(hall.control(), "Tempo −")
    await hall.shows("tempo 90%")
    await hall.heard()
    await hall.ann.press(hall.control(), "Loop from here")
    await hall.shows("The loop begins")
    pressed = await hall.bob.press(hall.control(), "⏯")
    await hall.until(lambda: pressed.original is not None, "a refusal")
    assert "Join" in pressed.answer.text


async def test_second_song_waits_and_is_played_next(hall: VoiceStage) -> None:
    await hall.play(await hall.song())
    assert "Added to the queue" in await hall.play(await hall.song())
    await hall.shows("Next: ")
    await hall.ann.press(hall.control(), "Next song")
    await hall.until(lambda: "Next: " not in hall.control().text, "the second song")
    await hall.heard()


async def test_refusals_name_the_reason(hall: VoiceStage) -> None:
    card = await hall.song()
    await hall.voice.leave(hall.ann.user, hall.band)
    assert "Join a voice channel first" in await hall.play(card)
    for missing, label in ((CONNECT, "Connect"), (SPEAK, "Speak")):
        closed = hall.fake.channel(hall.band, "closed", kind=2)
        closed.voice_permissions = (CONNECT | SPEAK) & ~missing
        await hall.fake.gateway.dispatch("CHANNEL_CREATE", closed.json())
        await hall.voice.join(hall.ann.user, closed)
        assert f"permission {label}" in await hall.play(card)
    full = hall.fake.channel(hall.band, "full", kind=2)
    full.user_limit = 1
    await hall.fake.gateway.dispatch("CHANNEL_CREATE", full.json())
    await hall.voice.join(hall.ann.user, full)
    assert "is full" in await hall.play(card)


async def test_killed_player_is_replaced(hall: VoiceStage) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    (player,) = hall.players()
    os.kill(player, signal.SIGKILL)
    await hall.shows("restarted")
    await hall.heard()
    assert player not in hall.players()


async def test_bot_muted_by_a_moderator_pauses(hall: VoiceStage) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    await hall.voice.mute_bot(hall.band, True)
    await hall.shows("muted by the server")
    await hall.voice.mute_bot(hall.band, False)
    await hall.until(lambda: "muted" not in hall.control().text, "the song to go on")
    await hall.heard()


async def test_kicked_bot_says_so_and_can_come_back(hall: VoiceStage) -> None:
    card = await hall.song()
    await hall.play(card)
    await hall.heard()
    await hall.voice.kick_bot(hall.band)
    await hall.shows("disconnected from the voice channel")
    await hall.until(lambda: not hall.players(), "the player to end")
    assert "Playing" in await hall.play(card)
    await hall.heard()


async def test_dropped_voice_connection_is_opened_again(hall: VoiceStage) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    identifies = len(hall.voice.identifies)
    await hall.voice.drop()
    await hall.until(lambda: len(hall.voice.identifies) > identifies, "another connection")
    await hall.heard()


async def test_killed_bot_continues_where_it_was(hall: VoiceStage) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    await hall.ann.press(hall.control(), "+10 s")
    await hall.shows("0:[1-5]")
    control = hall.control()
    await hall.bot.kill()
    await hall.bot.start()
    await hall.heard()
    await hall.shows("▶ 0:[1-5]")
    assert hall.control() is control
    await hall.ann.press(hall.control(), "Karaoke")
    await hall.shows("without vocals")
