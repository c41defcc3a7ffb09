"""Refusals that only their user sees, and no messages to users who only posted a file."""

from __future__ import annotations

import asyncio

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import Fault
from tests.fakes.discord.state import SEND

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSAL = "That file is empty. Please send it again."


async def test_refusal_leaves_nothing_in_the_channel(stage: Stage) -> None:
    stage.bot.script(refuse=REFUSAL)
    post = await stage.bob.post(stage.songs, "", SONG)
    for interaction in (
        await stage.ann.slash(stage.songs, "stemify", file=SONG),
        await stage.ann.menu(post, "Stemify"),
    ):
        assert await stage.private(interaction) == REFUSAL
    assert stage.songs.visible() == [post]


async def test_refused_offer_leaves_nothing_in_the_channel(stage: Stage) -> None:
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="button"))
    await stage.bob.post(stage.songs, "", SONG)
    await stage.until(lambda: len(stage.songs.visible()) == 2, "an offer")
    stage.bot.script(refuse=REFUSAL)
    pressed = await stage.ann.press(stage.songs.visible()[-1], "Split")
    assert await stage.private(pressed) == REFUSAL
    assert len(stage.songs.visible()) == 2


async def test_refusal_is_shown_if_the_answer_cannot_be_deleted(stage: Stage) -> None:
    stage.bot.script(refuse=REFUSAL)
    stage.fake.faults.append(Fault("DELETE", "/webhooks/", 403, code=50001))
    interaction = await stage.ann.slash(stage.songs, "stemify", file=SONG)
    assert (await stage.ann.answered(interaction)).text == REFUSAL


async def test_auto_mode_posts_one_refusal_an_hour_per_user(stage: Stage) -> None:
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="auto"))
    stage.bot.script(refuse=REFUSAL)
    for person in (stage.ann, stage.ann, stage.ann, stage.bob):
        await stage.bob.post(stage.songs, "x")
        await person.post(stage.songs, "", SONG)

    def refusals() -> list[int | None]:
        return [message.reference for message in stage.songs.visible() if message.text == REFUSAL]

    await stage.until(lambda: len(refusals()) == 2, "a refusal for each user")
    await asyncio.sleep(0.3)
    assert len(refusals()) == 2
    assert stage.fake.mentions_of(stage.ann.user) == []


async def test_posted_song_sends_no_direct_message(stage: Stage) -> None:
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="auto"))
    stage.bot.script(hold=["half"])
    await stage.ann.post(stage.songs, "", SONG)
    await stage.until(lambda: len(stage.songs.visible()) == 2, "a card")
    stage.songs.bot_permissions &= ~SEND
    stage.bot.script()
    await stage.until(lambda: stage.fake.requests("POST", f"/channels/{stage.songs.id}/messages")[1:], "the refusal")
    await asyncio.sleep(0.5)
    assert stage.fake.dm_of(stage.ann.user).visible() == []
