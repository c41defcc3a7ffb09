"""`/stemify private:True`: only the requester sees progress, stems and mixes."""

from __future__ import annotations

import time

import pytest

from tests.acceptance.conftest import COMPARED, SONG, Stage
from tests.fakes.discord import Interaction

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def private_result(stage: Stage) -> Interaction:
    interaction = await stage.ann.slash(stage.songs, "stemify", file=SONG, private=True)
    await stage.shows(await stage.ann.answered(interaction), "4 stems ·")
    await stage.until(lambda: interaction.followups, "the stems")
    return interaction


async def test_private_result_is_seen_by_the_requester_only(stage: Stage) -> None:
    interaction = await private_result(stage)
    (stems,) = interaction.followups
    assert interaction.answer.ephemeral and stems.ephemeral and len(stems.attachments) == 4
    mixing = await stage.ann.press(interaction.answer, "Karaoke")
    await stage.until(lambda: mixing.followups, "the mix")
    assert mixing.followups[0].ephemeral and mixing.followups[0].attachments
    assert stage.songs.visible() == []


async def test_private_song_has_no_name_for_others(stage: Stage) -> None:
    interaction = await private_result(stage)
    job_id = interaction.answer.button("More")["custom_id"].rpartition(":")[2]
    assert "no such job" in (await stage.private(await stage.bob.slash(stage.songs, "job status", job=job_id))).lower()
    activity = await stage.private(await stage.chief.slash(stage.songs, "settings activity"))
    assert "**a private song**" in activity and str(stage.ann.user.id) in activity
    choices = await stage.chief.complete(stage.songs, "settings delete", "job", job="private")
    assert job_id in [choice["value"] for choice in choices]
    await stage.private(await stage.chief.slash(stage.songs, "settings delete", job=job_id))
    await stage.until(lambda: interaction.followups[0].deleted, "the stems to go")


async def test_private_song_is_separated_again_privately(stage: Stage) -> None:
    interaction = await private_result(stage)
    asked = await stage.ann.press(await stage.more(stage.ann, interaction.answer), "Separate again…")
    filled = await stage.ann.fill(asked, quality="best")
    await stage.shows(await stage.ann.answered(filled), "4 stems ·")
    await stage.until(lambda: filled.followups, "the stems")
    assert filled.answer.ephemeral and stage.songs.visible() == []


async def test_private_song_is_compared_privately(stage: Stage) -> None:
    interaction = await private_result(stage)
    asked = await stage.ann.press(await stage.more(stage.ann, interaction.answer), "Try models on 30 s…")
    filled = await stage.ann.fill(asked, models="\n".join(COMPARED))
    await stage.shows(await stage.ann.answered(filled), "Press the letter of the best one")
    await stage.until(lambda: filled.followups, "the files")
    assert filled.answer.ephemeral and filled.followups[0].ephemeral and len(filled.followups[0].attachments) == 2
    chosen = await stage.ann.press(filled.followups[0], "A")
    assert f"**{COMPARED[1]}**" in await stage.private(chosen)
    assert stage.songs.visible() == []


async def test_private_result_after_its_token_comes_by_direct_message(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    interaction = await stage.ann.slash(stage.songs, "stemify", file=SONG, private=True)
    await stage.shows(await stage.ann.answered(interaction), "**10 %**")
    interaction.expires_at = time.time()
    stage.bot.script()
    announcement = await stage.announced(stage.ann)
    assert announcement.channel is stage.fake.dm_of(stage.ann.user)
    assert len(announcement.attachments) == 4
    assert stage.songs.visible() == []
