"""A song in a voice channel: the real bot, discord.py and player against a fake Discord with a voice server."""

from __future__ import annotations

import os
import signal

import pytest

from tests.fakes.discord.state import CONNECT, SPEAK
from tests.fixtures.voice_hall import SILENCE, STEMS, VoiceHall
from tests.fixtures.voice_sound import decoded, resampled, snr_db

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]


async def test_packets_hold_the_song_and_follow_its_switches(hall: VoiceHall) -> None:
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


async def test_buttons_change_what_is_played(hall: VoiceHall) -> None:
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


async def test_second_song_waits_and_is_played_next(hall: VoiceHall) -> None:
    await hall.play(await hall.song())
    assert "Added to the queue" in await hall.play(await hall.song())
    await hall.shows("Next: ")
    await hall.ann.press(hall.control(), "Next song")
    await hall.until(lambda: "Next: " not in hall.control().text, "the second song")
    await hall.heard()
    await hall.until(lambda: hall.hall.visible()[-1].text == "Now playing: **Blue Hour**", "its title")


async def test_deleted_song_ends_and_the_next_one_is_played(hall: VoiceHall) -> None:
    first = await hall.song()
    await hall.play(first)
    await hall.play(await hall.song())
    await hall.heard()
    await hall.delete(first)
    await hall.shows("The song was deleted")
    await hall.until(lambda: "Next: " not in hall.control().text, "the second song")
    await hall.heard()


async def test_deleted_last_song_ends_the_session(hall: VoiceHall) -> None:
    card = await hall.song()
    await hall.play(card)
    await hall.heard()
    await hall.delete(card)
    await hall.shows("The song was deleted.*\\s.*last song")
    await hall.until(lambda: hall.voice.channel_of_bot[hall.band.id] is None, "the bot to leave")


async def test_song_that_expires_is_not_played_to_its_end(hall: VoiceHall) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    hall.bot.script(stems=str(hall.stems), stems_s=hall.seconds, link_days=0)
    await hall.shows("has expired.*\\s.*last song")
    hall.bot.script(stems=str(hall.stems), stems_s=hall.seconds)
    await hall.until(lambda: hall.voice.channel_of_bot[hall.band.id] is None, "the bot to leave")


async def test_buttons_can_be_left_to_the_requester_and_a_role(hall: VoiceHall) -> None:
    singers = await hall.fake.role(hall.band, "Singers")
    await hall.settings(buttons="requester", role=singers)
    await hall.voice.join(hall.bob.user, hall.hall)
    await hall.play(await hall.song())
    await hall.heard()
    refused = await hall.bob.press(hall.control(), "Karaoke")
    await hall.until(lambda: refused.original is not None, "a refusal")
    assert "members with the role **Singers**" in refused.answer.text
    await hall.ann.press(hall.control(), "Karaoke")
    await hall.shows("without vocals")
    hall.bob.roles.append(singers)
    await hall.bob.press(hall.control(), "Everything")
    await hall.until(lambda: "without" not in hall.control().text, "a press of a singer")
    hall.bob.roles.remove(singers)
    await hall.settings(buttons="everyone")
    await hall.bob.press(hall.control(), "Karaoke")
    await hall.shows("without vocals")
    await hall.voice.leave(hall.bob.user, hall.band)


async def test_refusals_name_the_reason(hall: VoiceHall) -> None:
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


async def test_killed_player_is_replaced(hall: VoiceHall) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    (player,) = hall.players()
    os.kill(player, signal.SIGKILL)
    await hall.shows("restarted")
    await hall.heard()
    assert player not in hall.players()


async def test_bot_muted_by_a_moderator_pauses(hall: VoiceHall) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    await hall.voice.mute_bot(hall.band, True)
    await hall.shows("muted by the server")
    await hall.voice.mute_bot(hall.band, False)
    await hall.until(lambda: "muted" not in hall.control().text, "the song to go on")
    await hall.heard()


async def test_kicked_bot_says_so_and_can_come_back(hall: VoiceHall) -> None:
    card = await hall.song()
    await hall.play(card)
    await hall.heard()
    await hall.voice.kick_bot(hall.band)
    await hall.shows("disconnected from the voice channel")
    await hall.until(lambda: not hall.players(), "the player to end")
    assert "Playing" in await hall.play(card)
    await hall.heard()


async def test_killed_bot_continues_where_it_was(hall: VoiceHall) -> None:
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
