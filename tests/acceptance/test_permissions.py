"""Missing permissions and refused messages: the result arrives by another route."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import Fault
from tests.fakes.discord.state import ADD_FILES, HISTORY, MIB, SEND_IN_THREADS

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_result_without_history_permission_is_not_a_reply(stage: Stage) -> None:
    stage.songs.bot_permissions &= ~HISTORY
    interaction, message = await stage.ask()
    announcement = await stage.announced(stage.ann)
    assert announcement not in interaction.followups, "it must come as a message of the channel"
    assert announcement.channel is stage.songs and announcement.reference is None
    assert announcement.attachments and "4 stems ·" in message.text


async def test_listen_without_history_permission_sends_plain_message(stage: Stage) -> None:
    stage.songs.bot_permissions &= ~HISTORY
    reply = await stage.private(await stage.chief.slash(stage.songs, "listen", mode="auto"))
    assert "Read Message History" in reply
    await stage.ann.post(stage.songs, "", SONG)
    assert (await stage.announced(stage.ann)).channel is stage.songs


async def test_result_without_file_permission_comes_by_token(stage: Stage) -> None:
    stage.songs.bot_permissions &= ~ADD_FILES
    interaction, _ = await stage.ask()
    assert await stage.announced(stage.ann) in interaction.followups


async def test_thread_without_send_permission_is_reached_by_token(stage: Stage) -> None:
    thread = stage.fake.thread(stage.songs)
    thread.bot_permissions &= ~SEND_IN_THREADS
    interaction = await stage.ann.slash(thread, "stemify", file=SONG)
    message = await stage.ann.answered(interaction)
    await stage.shows(message, "4 stems ·")
    assert await stage.announced(stage.ann) in interaction.followups


@pytest.mark.parametrize(("status", "code"), [(400, 160005), (400, 200000), (400, 50035), (404, 10003)])
async def test_refused_channel_message_comes_by_token(stage: Stage, status: int, code: int) -> None:
    stage.fake.faults.append(Fault("POST", f"/channels/{stage.songs.id}/messages", status, code=code, times=99))
    interaction, _ = await stage.ask()
    announcement = await stage.announced(stage.ann)
    assert announcement in interaction.followups and announcement.attachments


async def test_blocked_title_is_left_out_in_the_same_channel(stage: Stage) -> None:
    stage.fake.blocked_words[200000] = "Blue Hour"
    _, message = await stage.ask()
    announcement = await stage.announced(stage.ann)
    assert "Your song" in message.text and "4 stems" in message.text and "Blue" not in message.text
    assert announcement.channel is stage.songs and len(announcement.attachments) == 4
    assert announcement.text == f"<@{stage.ann.user.id}> your stems are ready."


async def test_blocked_links_are_left_out(stage: Stage) -> None:
    stage.fake.blocked_words[240000] = "stems.example"
    stage.bot.script(stem_bytes=12 * MIB)
    _, message = await stage.ask()
    announcement = await stage.announced(stage.ann)
    assert announcement.channel is stage.songs and "stems.example" not in announcement.text
    await stage.shows(message, "4 stems")
    assert not any(button.get("url") for button in message.buttons())


async def test_blocked_title_where_bot_is_not_member(stage: Stage) -> None:
    stage.fake.blocked_words[200000] = "Blue Hour"
    foreign = stage.fake.channel(stage.fake.guild("Foreign", bot_is_member=False))
    message = await stage.ann.answered(await stage.ann.slash(foreign, "stemify", file=SONG))
    await stage.shows(message, "4 stems")
    assert (await stage.announced(stage.ann)).channel is foreign


async def test_posted_song_with_blocked_title_gets_card(stage: Stage) -> None:
    stage.fake.blocked_words[200000] = "Blue Hour"
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="auto"))
    await stage.ann.post(stage.songs, "", SONG)
    announcement = await stage.announced(stage.ann)
    assert "Your song" in stage.songs.messages[announcement.reference or 0].text


async def test_token_is_used_when_the_clocks_differ(stage: Stage) -> None:
    foreign = stage.fake.channel(stage.fake.guild("Foreign", bot_is_member=False))
    stage.fake.clock_ahead_s = -3600
    try:
        message = await stage.ann.answered(await stage.ann.slash(foreign, "stemify", file=SONG))
    finally:
        stage.fake.clock_ahead_s = 0
    await stage.shows(message, "4 stems ·")
    assert (await stage.announced(stage.ann)).channel is foreign
