"""Expired tokens, refused messages and broken connections: no job is lost, and none is announced twice."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import FakeDiscord, Fault, Person
from tests.fakes.discord.gateway import MESSAGE_CONTENT
from tests.fakes.discord.state import EVERYDAY, HISTORY, MANAGE_GUILD, MIB
from tests.fixtures.bot_process import RunningBot

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_expired_token_edits_message_in_channel(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    interaction, message = await stage.ask()
    await stage.shows(message, "**10 %**")
    interaction.expires_at = time.time()
    stage.bot.script(hold=["end"])
    await stage.shows(message, "**50 %**")
    stage.bot.script()
    await stage.shows(message, "4 stems ·")
    assert [file.filename for file in message.attachments] == ["waveform.png"]
    await stage.announced(stage.ann)
    path = f"/channels/{stage.songs.id}/messages/{message.id}"
    await stage.until(lambda: stage.fake.requests("PATCH", path), "an edit as a message of the channel")


async def test_locked_bot_database_delays_announcement(stage: Stage) -> None:
    stage.bot.script(hold=["end"])
    _, message = await stage.ask()
    await stage.shows(message, "**50 %**")
    with closing(sqlite3.connect(stage.bot.folder / "bot.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        stage.bot.script()
        await stage.until(
            lambda: "could not announce the job" in stage.bot.log_path.read_text(), "a failed announcement"
        )
        other.execute("ROLLBACK")
    await stage.announced(stage.ann)
    await stage.shows(message, "4 stems ·")


async def test_lost_response_does_not_repeat_announcement(stage: Stage) -> None:
    stage.fake.faults.append(Fault("POST", f"/channels/{stage.songs.id}/messages", "reset", after=True))
    _, message = await stage.ask()
    await stage.shows(message, "4 stems ·")
    await stage.announced(stage.ann)
    await asyncio.sleep(1.5)
    await stage.announced(stage.ann)


@pytest.mark.parametrize("status", [429, 500, 502, "reset"])
async def test_transient_failure_is_retried(stage: Stage, status: Any) -> None:
    stage.fake.faults += [
        Fault("PATCH", "/webhooks/", status),
        Fault("POST", f"/channels/{stage.songs.id}/messages", status),
    ]
    _, message = await stage.ask()
    await stage.shows(message, "4 stems ·")
    await stage.announced(stage.ann)
    assert all(fault.hits for fault in stage.fake.faults)


async def test_broken_acknowledgement_is_sent_again(stage: Stage) -> None:
    for after in (False, True):
        stage.fake.faults.append(Fault("POST", "/interactions/", "reset", after=after))
        interaction, message = await stage.ask()
        await stage.shows(message, "4 stems ·")
        assert interaction.original is message


async def test_stems_refused_as_too_large_become_links(stage: Stage) -> None:
    stage.songs.upload_limit_bytes = 500  # less than stated
    _, message = await stage.ask()
    await stage.shows(message, "4 stems ·")
    announcement = await stage.announced(stage.ann)
    assert announcement.attachments == []
    assert "too large to attach" in announcement.text
    assert "Listen" in {button.get("label") for button in message.buttons()}
    assert "[Vocals](<https://stems.example/files/vocals?" in announcement.text


async def test_stems_over_channel_limit_are_not_uploaded(stage: Stage) -> None:
    stage.bot.script(stem_bytes=11 * MIB)
    before = len(stage.fake.requests("POST", f"/channels/{stage.songs.id}/messages"))
    await stage.ask()
    announcement = await stage.announced(stage.ann)
    assert "(10 MB at most)" in announcement.text and announcement.attachments == []
    path = f"/channels/{stage.songs.id}/messages"
    await stage.until(lambda: len(stage.fake.requests("POST", path)) > before, "the request to be recorded")
    assert len(stage.fake.requests("POST", path)) == before + 1


async def test_large_stems_are_attached_at_lower_rate(stage: Stage) -> None:
    stage.bot.script(stem_bytes=12 * MIB, copy_bytes=9 * MIB, long="other")
    await stage.ask()
    announcement = await stage.announced(stage.ann)
    await stage.until(lambda: stage.songs.visible()[-1].text.startswith("More of"), "the second message")
    assert [len(message.attachments) for message in stage.songs.visible()[-2:]] == [2, 1]
    assert "Attached at 192 kbit/s" in announcement.text
    assert "[Other](<https://stems.example/files/other?" in announcement.text
    assert "too large to attach here (10 MB at most)" in announcement.text


async def test_limit_of_subscribed_user_is_not_the_channels(stage: Stage) -> None:
    stage.songs.user_limit_bytes = 50 * MIB
    stage.bot.script(stem_bytes=12 * MIB, copy_bytes=5 * MIB)
    before = len(stage.fake.requests("POST", f"/channels/{stage.songs.id}/messages"))
    await stage.ask()
    announcement = await stage.announced(stage.ann)
    assert len(announcement.attachments) == 4 and "too large" not in announcement.text
    path = f"/channels/{stage.songs.id}/messages"
    await stage.until(lambda: len(stage.fake.requests("POST", path)) > before, "the request to be recorded")
    assert len(stage.fake.requests("POST", path)) == before + 1


async def test_refused_files_are_packed_again_for_smaller_limit(stage: Stage) -> None:
    stage.band.premium_tier = 2
    await stage.fake.gateway.dispatch("GUILD_UPDATE", stage.band.json())
    try:
        stage.songs.upload_limit_bytes = 10 * MIB  # the boost has just ended
        stage.bot.script(stem_bytes=12 * MIB, copy_bytes=5 * MIB, long="drums")
        await stage.ask()
        announcement = await stage.announced(stage.ann)
    finally:
        stage.band.premium_tier = 0
        await stage.fake.gateway.dispatch("GUILD_UPDATE", stage.band.json())
    assert len(announcement.attachments) == 3
    assert "[Drums](<http" in announcement.text and "(10 MB at most)" in announcement.text


async def test_many_stems_take_several_messages_with_one_mention(stage: Stage) -> None:
    stage.bot.script(stem_bytes=9 * MIB)
    await stage.ask()
    announcement = await stage.announced(stage.ann)
    await stage.until(lambda: stage.songs.visible()[-1].text.startswith("More of"), "the second message")
    assert [len(message.attachments) for message in stage.songs.visible()[-2:]] == [2, 2]
    assert announcement in stage.songs.visible()[-2:]


async def test_urls_invalid_for_buttons_move_into_text(stage: Stage) -> None:
    stage.bot.script(hold=["end"])
    _, message = await stage.ask()
    await stage.shows(message, "**50 %**")
    stage.fake.faults.append(Fault("PATCH", "/webhooks/", 400, code=50035))
    stage.bot.script()
    await stage.shows(message, "[Listen](<http")
    await stage.announced(stage.ann)


async def test_deleted_card_adds_page_link_to_announcement(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    _, message = await stage.ask()
    await stage.shows(message, "**10 %**")
    message.deleted = True
    stage.bot.script()
    announcement = await stage.announced(stage.ann)
    assert "https://stems.example/jobs/1" in announcement.text, "the announcement must link to the page"
    assert announcement.attachments


async def test_no_channel_access_sends_result_by_dm(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    interaction, message = await stage.ask()
    await stage.shows(message, "**10 %**")
    stage.songs.bot_permissions = 0
    interaction.expires_at = time.time()
    stage.bot.script()
    announcement = await stage.announced(stage.ann)
    assert announcement.channel is stage.fake.dm_of(stage.ann.user)
    assert "https://stems.example/jobs/1" in announcement.text


async def test_unreachable_requester_still_has_job_in_list(stage: Stage) -> None:
    stage.ann.user.accepts_dms = False
    stage.bot.script(hold=["half"])
    interaction, message = await stage.ask()
    await stage.shows(message, "**10 %**")
    stage.songs.bot_permissions = 0
    interaction.expires_at = time.time()
    stage.bot.script()
    elsewhere = stage.fake.channel(stage.band, "elsewhere")
    for _ in range(50):
        listed = await stage.private(await stage.ann.slash(elsewhere, "job list"))
        if "· done" in listed:
            break
        await asyncio.sleep(0.1)
    assert "· done" in listed


async def test_archived_thread_sends_result_by_dm(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    interaction, message = await stage.ask()
    await stage.shows(message, "**10 %**")
    stage.songs.archived = True
    interaction.expires_at = time.time()
    stage.bot.script()
    assert (await stage.announced(stage.ann)).channel is stage.fake.dm_of(stage.ann.user)


async def test_left_server_sends_result_by_dm(stage: Stage) -> None:
    band = stage.fake.guild("Farewell")
    stage.songs = stage.fake.channel(band)
    await stage.fake.gateway.dispatch("GUILD_CREATE", band.json())
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="auto"))
    stage.bot.script(hold=["half"])
    interaction, message = await stage.ask()
    await stage.shows(message, "**10 %**")
    band.bot_is_member = False
    await stage.fake.gateway.dispatch("GUILD_DELETE", {"id": str(band.id)})
    interaction.expires_at = time.time()
    stage.bot.script()
    announcement = await stage.announced(stage.ann)
    assert announcement.channel is stage.fake.dm_of(stage.ann.user) and announcement.attachments
    band.bot_is_member = True
    await stage.fake.gateway.dispatch("GUILD_CREATE", band.json())
    before = len(stage.songs.visible())
    await stage.ann.post(stage.songs, "", SONG)
    await asyncio.sleep(0.5)
    assert len(stage.songs.visible()) == before + 1, "leaving a server must reset /listen"


async def test_button_press_renews_token_where_bot_is_not_member(stage: Stage) -> None:
    """With a user install, only interaction tokens give access to the channel."""
    foreign = stage.fake.channel(stage.fake.guild("Foreign", bot_is_member=False))
    stage.bot.script(hold=["half"])
    first = await stage.ann.slash(foreign, "stemify", file=SONG)
    message = await stage.ann.answered(first)
    await stage.shows(message, "**10 %**")
    first.expires_at = time.time()
    stage.bot.script(hold=["end"])
    await asyncio.sleep(0.8)
    assert "**10 %**" in message.text, "an expired token must not edit"
    await stage.ann.press(message, "Refresh")
    await stage.shows(message, "**50 %**")
    stage.bot.script()
    await stage.shows(message, "4 stems ·")
    announcement = await stage.announced(stage.ann)
    assert announcement.channel is foreign, "the new token must be used"


async def test_missed_events_arrive_after_gateway_reconnect(stage: Stage) -> None:
    gateway = stage.fake.gateway
    for interrupt in (gateway.cut, gateway.ask_to_reconnect):
        resumes = gateway.resumes
        await interrupt()
        interaction = await stage.ann.slash(stage.songs, "stemify", file=SONG)
        await stage.until(lambda resumes=resumes: gateway.resumes > resumes, "a resume")  # type: ignore[misc]
        await stage.shows(await stage.ann.answered(interaction), "4 stems ·")
    identifies = gateway.identifies
    await gateway.invalidate()
    await stage.until(lambda: gateway.identifies > identifies, "a new session")
    _, message = await stage.ask()
    await stage.shows(message, "4 stems ·")


async def test_edits_of_many_jobs_respect_rate_limits(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    asked = [await stage.ask() for _ in range(6)]
    for interaction, message in asked:
        await stage.shows(message, "**10 %**")
        interaction.expires_at = time.time()
    limited = len(stage.fake.rate_limited())
    stage.bot.script()
    for _, message in asked:
        await stage.shows(message, "4 stems ·")
    await stage.until(lambda: len(stage.fake.mentions_of(stage.ann.user)) == 6, "six announcements")
    assert len(stage.fake.rate_limited()) - limited <= 1


async def test_missing_message_content_intent_is_reported(tmp_path: Path) -> None:
    async with FakeDiscord() as fake:
        fake.gateway.allowed_intents = ~MESSAGE_CONTENT
        songs = fake.channel(fake.guild())
        chief = Person(fake, "chief", permissions=EVERYDAY | MANAGE_GUILD)
        bot = RunningBot(fake, tmp_path / "data", scripted=True)
        async with bot:
            songs.bot_permissions &= ~HISTORY
            interaction = await chief.slash(songs, "listen", mode="auto")
            text = (await chief.answered(interaction)).text
            assert "Message Content Intent is off" in text
            assert await bot.stop() == 0, "SIGTERM must end it cleanly"
        assert fake.bot_token not in bot.log() and "interaction-token-" not in bot.log()
        assert "Traceback" not in bot.log()
