"""Several songs of one message: one card that counts up, one mention, and no song that stops another."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest

from tests.acceptance.conftest import Stage
from tests.fakes.discord import Interaction, Message, Upload

pytestmark = pytest.mark.asyncio(loop_scope="module")

TWO = (Upload("one.mp3", bytes(700_000)), Upload("two.flac", bytes(700_000), "audio/flac"))


async def start(stage: Stage, *uploads: Upload) -> tuple[Interaction, Message]:
    """Use the menu as Ann on a message with these files, and return the card of the batch."""
    post = await stage.bob.post(stage.songs, "our demo", *uploads)
    interaction = await stage.ann.menu(post, "Stemify")
    return interaction, await stage.ann.answered(interaction)


def stems_of(stage: Stage, card: Message) -> list[Message]:
    return [message for message in stage.songs.visible() if message.reference == card.id and message.attachments]


async def test_songs_share_one_card_and_one_mention(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    _, card = await start(stage, *TWO, Upload("cover.png", b"3", "image/png"))
    await stage.shows(card, "0 of 2 songs done")
    await stage.shows(card, "1. **one** · separating, 10 %\n2. **two** · separating, 10 %")
    stage.bot.script()
    mention = await stage.announced(stage.ann)
    assert mention.text == f"<@{stage.ann.user.id}> the stems of all 2 songs are ready."
    assert mention.reference == card.id
    await stage.shows(card, "2 of 2 songs done")
    stems = stems_of(stage, card)
    assert sorted(message.text for message in stems) == [
        "Stems of **one** are ready.", "Stems of **two** are ready.",
    ]  # fmt: skip
    assert [len(message.attachments) for message in stems] == [4, 4]
    for message in stems:
        assert f"(<https://discord.com/channels/{stage.band.id}/{stage.songs.id}/{message.id}>) · done" in card.text


async def test_links_beside_files_are_songs_too(stage: Stage) -> None:
    post = await stage.bob.post(stage.songs, "our demo of https://youtu.be/dQw4w9WgXcQ", TWO[0])
    card = await stage.ann.answered(await stage.ann.menu(post, "Stemify"))
    await stage.shows(card, "1 of 2 songs done")
    assert "2. **youtu.be\\/dQw4w9WgXcQ** · Links are not scripted." in card.text


async def test_bad_file_is_named_and_stops_nothing(stage: Stage) -> None:
    stage.bot.script(refuse="That file stops after 0:00.", only="broken.mp3")
    interaction, card = await start(stage, Upload("broken.mp3", b"0"), *TWO)
    mention = await stage.announced(stage.ann)
    assert "the stems of 2 of 3 songs are ready" in mention.text
    await stage.shows(card, "1. **broken.mp3** · That file stops after 0:00.")
    assert "2 of 3 songs done" in card.text and not interaction.followups


async def test_batch_of_bad_files_is_refused_privately(stage: Stage) -> None:
    stage.bot.script(refuse="That file is empty.")
    post = await stage.bob.post(stage.songs, "", *TWO)
    refusal = await stage.private(await stage.ann.menu(post, "Stemify"))
    assert "None of these songs was accepted. one.mp3: That file is empty. two.flac: That file" in refusal
    assert stage.songs.visible() == [post]


async def test_ten_links_are_started_and_the_others_named(stage: Stage) -> None:
    stage.bot.script(accept_links=True)
    links = [f"https://youtu.be/aaaaaaaaa{number:02}" for number in range(40)]
    card = await stage.ann.answered(await stage.ann.slash(stage.songs, "stemify", url=" ".join(links)))
    await stage.shows(card, "10 of 20 songs done")
    await stage.announced(stage.ann)
    assert "20. **21 more** · not started: at most 10 songs at once" in card.text
    assert "12. **youtu.be\\/aaaaaaaaa11** · not started: at most 10 songs at once" in card.text
    assert len(stems_of(stage, card)) == 10


async def test_cancel_all_requires_owner_or_moderator(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    _, card = await start(stage, *TWO)
    await stage.shows(card, "separating, 10 %\n2. **two** · separating")
    refused = await stage.bob.press(card, "Cancel all")
    assert "Only the person who submitted" in await stage.private(refused)
    await stage.chief.press(card, "Cancel all")
    await stage.shows(card, "1. **one** · cancelled\n2. **two** · cancelled")
    assert stage.fake.mentions_of(stage.ann.user) == []


async def test_cancelled_batch_starts_no_more_songs(stage: Stage) -> None:
    stage.bot.script(hold=["accept", "half"], only="two.flac")
    _, card = await start(stage, *TWO, Upload("three.mp3", b"3"))
    await stage.shows(card, "1. **one** · separating, 10 %\n2. **two.flac** · checking\n3. **three.mp3** · checking")
    await stage.ann.press(card, "Cancel all")
    await stage.shows(card, "1. **one** · cancelled")
    stage.bot.script()
    await stage.shows(card, "2. **two.flac** · cancelled\n3. **three.mp3** · cancelled")
    await stage.until(lambda: not card.buttons(), "the last state of the card")
    assert stage.fake.mentions_of(stage.ann.user) == []


async def test_one_song_of_a_batch_is_deleted_alone(stage: Stage) -> None:
    _, card = await start(stage, *TWO)
    await stage.announced(stage.ann)
    stems = next(message for message in stems_of(stage, card) if "**one**" in message.text)
    assert [button["label"] for button in stems.buttons()] == [
        "Karaoke",
        "No drums",
        "No bass",
        "Mix…",
        "Play in voice",
        "More",
    ]
    more = await stage.ann.press(stems, "More")
    assert "**one**" in await stage.private(more)
    question = await stage.ann.press(more.answer, "Delete")
    await stage.private(question)
    await stage.ann.press(question.answer, "Delete permanently")
    await stage.until(lambda: stems.deleted, "the stems to be deleted")
    await stage.shows(card, "1. **one.mp3** · deleted")
    assert "1 of 2 songs done" in card.text and len(stems_of(stage, card)) == 1


async def test_delete_all_removes_the_stems_of_every_song(stage: Stage) -> None:
    _, card = await start(stage, *TWO)
    mention = await stage.announced(stage.ann)
    await stage.shows(card, "2 of 2 songs done")
    question = await stage.ann.press(card, "Delete all")
    assert "all songs of this message" in await stage.private(question)
    done = await stage.ann.press(question.answer, "Delete permanently")
    await stage.shows(card, "Deleted")
    await stage.until(lambda: not stems_of(stage, card) and mention.deleted, "the messages to be deleted")
    await stage.shows(done.answer, "Deleted.")
    assert "no jobs yet" in await stage.private(await stage.ann.slash(stage.songs, "job list"))


async def test_auto_mode_shows_one_card_for_all_files(stage: Stage) -> None:
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="auto"))
    post = await stage.ann.post(stage.songs, "", *TWO)
    mention = await stage.announced(stage.ann)
    card = stage.songs.messages[mention.reference or 0]
    assert card.reference == post.id and "2 of 2 songs done" in card.text
    assert len(stems_of(stage, card)) == 2


async def test_batch_reaches_user_where_bot_is_not_member(stage: Stage) -> None:
    """Discord allows five follow-ups there: the other stems and the mention are direct messages."""
    foreign = stage.fake.channel(stage.fake.guild("Foreign", bot_is_member=False))
    post = await stage.bob.post(stage.songs, "", *[Upload(f"{number}.mp3", b"1") for number in range(7)])
    post.channel = foreign
    interaction = await stage.ann.menu(post, "Stemify")
    card = await stage.ann.answered(interaction)
    mention = await stage.announced(stage.ann)
    await stage.shows(card, "7 of 7 songs done")
    direct = stage.fake.dm_of(stage.ann.user)
    assert len(interaction.followups) == 5 and mention in direct.visible()
    assert sum(bool(message.attachments) for message in [*interaction.followups, *direct.visible()]) == 7


async def test_blocked_title_of_a_batch_is_left_out(stage: Stage) -> None:
    stage.fake.blocked_words[200000] = "two"
    _, card = await start(stage, *TWO)
    await stage.announced(stage.ann)
    await stage.shows(card, "2 of 2 songs done")
    texts = sorted(message.text for message in stems_of(stage, card))
    assert texts == ["Stems of **one** are ready.", "The stems of a song are ready."]


async def test_killed_bot_finishes_batch_with_one_mention(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    interaction, card = await start(stage, *TWO)
    await stage.shows(card, "separating, 10 %\n2. **two** · separating")
    await stage.bot.kill()
    interaction.expires_at = time.time()
    stage.bot.script()
    await stage.bot.start()
    await stage.announced(stage.ann)
    await stage.shows(card, "2 of 2 songs done")
    assert len(stems_of(stage, card)) == 2


async def test_batch_of_a_killed_bot_says_what_to_send_again(stage: Stage) -> None:
    stage.bot.script(hold=["accept"])
    post = await stage.bob.post(stage.songs, "", *TWO)
    interaction = await stage.ann.menu(post, "Stemify")
    await stage.until(lambda: interaction.acked_at is not None, "the acknowledgement")
    await stage.until(lambda: (stage.bot.folder / "bot.sqlite3").exists() and waiting(stage) == 2, "a batch on disk")
    await stage.bot.kill()
    stage.bot.script()
    await stage.bot.start()
    card = await stage.ann.answered(interaction)
    await stage.shows(card, "2. **two.flac** · I restarted before I could accept this song. Please send it again.")
    assert stage.fake.mentions_of(stage.ann.user) == []
    with closing(sqlite3.connect(stage.bot.folder / "bot.sqlite3")) as database:
        query = "SELECT COUNT(*) FROM server_job WHERE user_id = ?"
        assert database.execute(query, (stage.ann.user.id,)).fetchone()[0] == 0, "lost songs count for no limit"


def waiting(stage: Stage) -> int:
    """Return the number of messages that wait for their songs to be accepted: a batch and its first song."""
    with closing(sqlite3.connect(stage.bot.folder / "bot.sqlite3")) as database:
        query = "SELECT COUNT(*) FROM posting WHERE state = 'submitting' AND user_id = ?"
        return int(database.execute(query, (stage.ann.user.id,)).fetchone()[0])
