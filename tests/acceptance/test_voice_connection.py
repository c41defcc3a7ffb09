"""The connection to a voice channel: encrypted end to end, moved, closed by the server and opened again."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fixtures.voice_hall import SILENCE, STEMS, VoiceHall
from tests.fixtures.voice_sound import decoded, resampled, snr_db

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]


@pytest_asyncio.fixture(loop_scope="module")
async def private_hall(hall: VoiceHall) -> AsyncIterator[VoiceHall]:
    """Return the hall with Ann as a member of the encrypted call."""
    hall.voice.listener = hall.ann.user
    yield hall
    await hall.leave()
    hall.voice.listener = None


async def test_listener_of_an_encrypted_call_gets_the_song(private_hall: VoiceHall) -> None:
    hall = private_hall
    card = await hall.song()
    hall.voice.packets.clear()
    await hall.play(card)
    await hall.until(lambda: sum(packet.is_private for packet in hall.voice.packets) > 150, "encrypted sound")
    packets = [packet for packet in hall.voice.packets if packet.frame != SILENCE]
    first = next(index for index, packet in enumerate(packets) if packet.is_private)
    assert all(packet.is_private for packet in packets[first:])
    wanted = resampled(STEMS["drums"] + STEMS["vocals"])
    assert snr_db(decoded(packet.frame for packet in packets)[:, 4800:], wanted[:, 7200:]) > 20


@pytest.mark.parametrize("code", [4000, 4014, 4015])
async def test_lost_connection_is_opened_again_at_the_same_place(hall: VoiceHall, code: int) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    await hall.ann.press(hall.control(), "+10 s")
    await hall.shows("0:1[0-9]")
    identifies, requests_to_leave = len(hall.voice.identifies), hall.voice.requests_to_leave
    await hall.voice.drop(code)
    await hall.until(lambda: len(hall.voice.identifies) > identifies, "another connection")
    assert hall.voice.requests_to_leave <= requests_to_leave + 1, "each one more may take 20 s"
    await hall.heard()
    await hall.ann.press(hall.control(), "Karaoke")
    await hall.shows("without vocals")
    assert re.search("▶ 0:[1-5]", hall.control().text)


async def test_song_goes_on_over_another_voice_server(hall: VoiceHall) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    identifies = len(hall.voice.identifies)
    await hall.voice.change_server(hall.band.id)
    await hall.until(lambda: len(hall.voice.identifies) > identifies, "another connection")
    await hall.heard()


async def test_moved_bot_plays_on_in_the_other_channel(hall: VoiceHall) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    control = hall.control()
    other = hall.fake.channel(hall.band, "other hall", kind=2)
    await hall.fake.gateway.dispatch("CHANNEL_CREATE", other.json())
    await hall.voice.join(hall.ann.user, other)
    identifies = len(hall.voice.identifies)
    await hall.voice.move_bot(hall.band.id, other.id)
    await hall.until(lambda: len(hall.voice.identifies) > identifies, "another connection")
    await hall.heard()
    await hall.ann.press(control, "Karaoke")
    await hall.until(lambda: "without vocals" in control.text, "its buttons to work in the other channel")
    await hall.ann.press(control, "Stop")
    await hall.until(lambda: hall.voice.channel_of_bot[hall.band.id] is None, "the bot to leave")


async def test_audience_of_a_stage_channel_asks_to_speak(hall: VoiceHall) -> None:
    card = await hall.song()
    stage = hall.fake.channel(hall.band, "stage", kind=13)
    await hall.fake.gateway.dispatch("CHANNEL_CREATE", stage.json())
    await hall.voice.join(hall.ann.user, stage)
    assert "Playing" in await hall.play(card)
    control = hall.control(stage)
    await hall.until(lambda: "asked to speak" in control.text, "the note")
    assert hall.voice.requests_to_speak == 1
    hall.voice.packets.clear()
    await hall.voice.invite_bot(hall.band)
    await hall.until(lambda: "asked to speak" not in control.text, "the song to begin")
    await hall.heard()
    await hall.ann.press(control, "Stop")
    await hall.until(lambda: hall.voice.channel_of_bot[hall.band.id] is None, "the bot to leave")
