"""A deleted job leaves nothing in Discord, or its user gets links to the messages that remain."""

from __future__ import annotations

import time

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import Channel, Interaction, Message

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def delete(stage: Stage, channel: Channel) -> Interaction:
    """Delete Ann's only job with `/job delete`."""
    choice, _ = await stage.ann.complete(channel, "job delete", "job", job="")
    question = await stage.ann.slash(channel, "job delete", job=choice["value"])
    await stage.private(question)
    pressed = await stage.ann.press(question.answer, "Delete permanently")
    await stage.until(lambda: pressed.original is not None, "an acknowledgement")
    return pressed


async def foreign_job(stage: Stage) -> tuple[Interaction, Message, Message]:
    """Finish a job where the bot is not a member; return its interaction, card and stems."""
    foreign = stage.fake.channel(stage.fake.guild("Foreign", bot_is_member=False))
    interaction = await stage.ann.slash(foreign, "stemify", file=SONG)
    card = await stage.ann.answered(interaction)
    await stage.shows(card, "4 stems")
    return interaction, card, await stage.announced(stage.ann)


async def test_deleted_card_has_no_picture(stage: Stage) -> None:
    _, card = await stage.ask()
    await stage.announced(stage.ann)
    await stage.until(lambda: card.attachments, "a picture")
    await delete(stage, stage.songs)
    await stage.shows(card, "### Deleted")
    assert card.attachments == []


async def test_stems_are_deleted_by_token_where_bot_is_not_member(stage: Stage) -> None:
    interaction, card, stems = await foreign_job(stage)
    deletion = await delete(stage, interaction.channel)
    await stage.until(lambda: stems.deleted, "the stems to be deleted")
    await stage.shows(card, "### Deleted")
    await stage.shows(deletion.answer, "Deleted.")


async def test_messages_that_remain_are_named_with_links(stage: Stage) -> None:
    interaction, card, stems = await foreign_job(stage)
    interaction.expires_at = time.time()
    deletion = await delete(stage, interaction.channel)
    await stage.shows(deletion.answer, "I cannot delete these messages")
    for message in (card, stems):
        assert f"/{interaction.channel.id}/{message.id}" in deletion.answer.text


async def test_deletion_of_everything_names_what_remains(stage: Stage) -> None:
    interaction, _, stems = await foreign_job(stage)
    interaction.expires_at = time.time()
    question = await stage.ann.slash(stage.songs, "job delete", job="everything")
    await stage.private(question)
    pressed = await stage.ann.press(question.answer, "Delete everything permanently")
    await stage.until(lambda: pressed.original is not None, "an acknowledgement")
    await stage.shows(pressed.answer, "Deleted 1 job with all")
    assert f"/{interaction.channel.id}/{stems.id}" in pressed.answer.text
