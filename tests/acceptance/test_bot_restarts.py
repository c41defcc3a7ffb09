"""Kills and restarts of the bot: jobs go on, and none is announced twice."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import Fault

pytestmark = pytest.mark.asyncio(loop_scope="module")


def recorded(stage: Stage) -> set[int]:
    """Return the messages of jobs that the bot has recorded."""
    with closing(sqlite3.connect(stage.bot.folder / "bot.sqlite3")) as database:
        return {row[0] for row in database.execute("SELECT message_id FROM posting")}


async def test_killed_bot_resumes_jobs_and_announces_once(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    _, running = await stage.ask()
    await stage.shows(running, "**10 %**")
    stage.bot.script(hold=["half", "accept"])
    lost = await stage.ann.slash(stage.songs, "stemify", file=SONG)
    await stage.until(lambda: lost.acked_at is not None and len(recorded(stage)) == 2, "the record of the second song")
    syncs = stage.fake.syncs
    await stage.bot.kill()
    stage.bot.script()
    await stage.bot.start()
    await stage.shows(running, "4 stems ·")
    assert "Please send it again" in await stage.private(lost)
    assert lost.answer.deleted, "the public answer"
    await stage.announced(stage.ann)
    await stage.bot.kill()
    await stage.bot.start()
    await asyncio.sleep(1)
    assert len(stage.fake.mentions_of(stage.ann.user)) == 1, "a restart must not announce again"
    assert stage.fake.syncs == syncs, "unchanged commands must not be synced"
    await stage.ann.press(await stage.more(stage.ann, running), "Keep")
    await stage.shows(running, "Kept until you delete it.")


async def test_old_messages_are_purged_after_stem_retention(stage: Stage) -> None:
    _, old = await stage.ask()
    _, kept = await stage.ask()
    _, fresh = await stage.ask()
    for message in (old, kept, fresh):
        await stage.shows(message, "Available until")
    await stage.until(lambda: len(stage.fake.mentions_of(stage.ann.user)) == 3, "the announcements")
    await stage.ann.press(await stage.more(stage.ann, kept), "Keep")
    await stage.shows(kept, "Kept until you delete it.")
    await stage.bot.kill()
    with closing(sqlite3.connect(stage.bot.folder / "bot.sqlite3")) as database, database:
        aged = "UPDATE posting SET created_at = created_at - 91 * 86400 WHERE message_id IN (?, ?)"
        database.execute(aged, (old.id, kept.id))
    await stage.bot.start()
    await stage.until(lambda: old.id not in recorded(stage), "the old message to be purged")
    assert {kept.id, fresh.id} <= recorded(stage)


async def test_deletion_resumes_after_kill(stage: Stage) -> None:
    _, message = await stage.ask()
    announcement = await stage.announced(stage.ann)
    (job,) = [path for path in stage.bot.folder.glob("*-*.json") if stage.ann.owner in path.read_text()]
    stage.fake.faults.append(Fault("DELETE", "/channels/", "reset", times=1000))
    question = await stage.ann.press(await stage.more(stage.ann, message), "Delete now")
    await stage.private(question)
    pressed = await stage.ann.press(question.answer, "Delete permanently")
    await stage.until(lambda: pressed.original and not job.exists(), "the job to be deleted")
    await stage.bot.kill()
    assert not announcement.deleted and "stems ·" in message.text, "too fast to be killed in the middle"
    stage.fake.faults.clear()
    await stage.bot.start()
    await stage.until(lambda: announcement.deleted, "the attached stems to be deleted")
    await stage.shows(message, "The song and its stems were deleted")


@pytest.mark.parametrize("nonces", ["remembered", "forgotten"])
async def test_kill_during_announcement_does_not_repeat_it(stage: Stage, nonces: str) -> None:
    stage.bot.script(hold=["end"])
    _, message = await stage.ask()
    await stage.shows(message, "**50 %**")
    stage.fake.faults.append(Fault("POST", f"/channels/{stage.songs.id}/messages", "reset", after=True, times=99))
    stage.bot.script()
    announcement = await stage.announced(stage.ann)
    await stage.bot.kill()
    stage.fake.faults.clear()
    if nonces == "forgotten":  # as after a few minutes
        announcement.nonce = None
    await stage.bot.start()
    await asyncio.sleep(1.5)
    assert stage.fake.mentions_of(stage.ann.user) == [announcement]
