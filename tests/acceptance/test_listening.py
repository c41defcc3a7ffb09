"""`/listen`: where it is on, what counts as a song, offers, and songs in direct messages."""

from __future__ import annotations

import asyncio

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import Channel, Message, Person, Upload
from tests.fakes.discord.state import HISTORY, SEND, SEND_IN_THREADS

pytestmark = pytest.mark.asyncio(loop_scope="module")

VOICE, ANNOUNCEMENT, FORUM = 2, 5, 15


async def listen(stage: Stage, mode: str, channel: Channel | None = None, *, person: Person | None = None) -> str:
    options = {} if channel is None else {"channel": channel}
    return await stage.private(await (person or stage.chief).slash(stage.songs, "listen", mode=mode, **options))


async def offer_to(stage: Stage, post: Message) -> Message:
    """Return the bot's reply to a message."""
    await stage.until(lambda: replies(post), "a reply")
    (reply,) = replies(post)
    return reply


def replies(post: Message) -> list[Message]:
    return [message for message in post.channel.visible() if message.reference == post.id]


async def new_channel(stage: Stage, kind: int) -> Channel:
    channel = stage.fake.channel(stage.band, f"channel of kind {kind}", kind)
    await stage.fake.gateway.dispatch("CHANNEL_CREATE", channel.json())
    return channel


async def new_thread(stage: Stage, parent: Channel) -> Channel:
    thread = stage.fake.thread(parent)
    await stage.fake.gateway.dispatch("THREAD_CREATE", thread.json())
    return thread


@pytest.mark.parametrize("kind", [0, VOICE, ANNOUNCEMENT])
async def test_another_channel_is_listened_to(stage: Stage, kind: int) -> None:
    channel = await new_channel(stage, kind)
    assert f"reply to songs in <#{channel.id}> with a button" in await listen(stage, "button", channel)
    assert "I can split this song" in (await offer_to(stage, await stage.bob.post(channel, "", SONG))).text
    assert not replies(await stage.bob.post(stage.songs, "", SONG))


async def test_every_post_of_a_forum_is_listened_to(stage: Stage) -> None:
    forum = await new_channel(stage, FORUM)
    await listen(stage, "button", forum)
    post = await new_thread(stage, forum)
    assert "I can split" in (await offer_to(stage, await stage.bob.post(post, "", SONG))).text


async def test_off_in_a_thread_precedes_its_channel(stage: Stage) -> None:
    await listen(stage, "button")
    thread = await new_thread(stage, stage.songs)
    await offer_to(stage, await stage.bob.post(thread, "", SONG))
    assert "I will ignore songs" in await listen(stage, "off", thread)
    ignored = await stage.bob.post(thread, "", SONG)
    await offer_to(stage, await stage.bob.post(stage.songs, "", SONG))
    assert not replies(ignored)


async def test_list_names_the_channels(stage: Stage) -> None:
    elsewhere = await new_channel(stage, 0)
    await listen(stage, "auto")
    await listen(stage, "button", elsewhere)
    await listen(stage, "off", await new_thread(stage, elsewhere))
    listed = await listen(stage, "list")
    assert f"- <#{stage.songs.id}> · auto" in listed and f"- <#{elsewhere.id}> · button" in listed


async def test_channel_in_which_the_bot_cannot_write_stays_off(stage: Stage) -> None:
    elsewhere = await new_channel(stage, 0)
    elsewhere.bot_permissions &= ~SEND
    await stage.fake.gateway.dispatch("CHANNEL_UPDATE", elsewhere.json())
    refusal = await listen(stage, "auto", elsewhere)
    assert (
        refusal
        == f"I cannot write in <#{elsewhere.id}>. Give me these permissions there first: Send Messages, Attach Files."
    )
    forum = await new_channel(stage, FORUM)
    forum.bot_permissions &= ~(SEND_IN_THREADS | HISTORY)
    await stage.fake.gateway.dispatch("CHANNEL_UPDATE", forum.json())
    assert "Send Messages in Threads, Read Message History" in await listen(stage, "auto", forum)
    assert str(elsewhere.id) not in await listen(stage, "list")


async def test_administrators_can_delegate_the_command(stage: Stage) -> None:
    with pytest.raises(PermissionError):
        await listen(stage, "button", person=stage.bob)
    stage.bob.granted.add("listen")
    assert "with a button" in await listen(stage, "button", person=stage.bob)


async def test_videos_voice_messages_and_short_clips_get_no_offer(stage: Stage) -> None:
    await listen(stage, "button")
    video = await stage.bob.post(stage.songs, "", Upload("clip.mp4", SONG.data, "video/mp4"))
    voice = await stage.bob.speak(stage.songs, Upload("voice-message.ogg", SONG.data, "audio/ogg"))
    clip = await stage.bob.post(stage.songs, "", Upload("clip.mp3", bytes(50_000)))
    await offer_to(stage, await stage.bob.post(stage.songs, "", SONG))
    assert not replies(video) and not replies(voice) and not replies(clip)
    asked = await stage.ann.menu(video, "Stemify")
    await stage.shows(await stage.ann.answered(asked), "4 stems")


async def test_auto_mode_ignores_songs_that_turn_out_short(stage: Stage) -> None:
    await listen(stage, "auto")
    stage.bot.script(duration_s=19.0)
    short = await stage.bob.post(stage.songs, "", SONG)
    await stage.bot.logs("audio ignored")
    assert not replies(short)
    asked = await stage.bob.menu(short, "Stemify")
    await stage.shows(await stage.bob.answered(asked), "4 stems")


async def test_offer_becomes_a_link_after_one_press(stage: Stage) -> None:
    await listen(stage, "button")
    post = await stage.bob.post(stage.songs, "", SONG, Upload("two.mp3", SONG.data))
    offer = await offer_to(stage, post)
    assert offer.text == "I can split these 2 songs into stems."
    stage.bot.script(hold=["accept"])
    pressed = await stage.ann.press(offer, "Split all 2")
    await stage.until(lambda: pressed.acked_at is not None, "the acknowledgement")
    assert "checked already" in await stage.private(await stage.bob.press(offer, "Split all 2"))
    stale = offer.buttons()[0]
    stage.bot.script()
    card = await stage.ann.answered(pressed)
    await stage.until(lambda: offer.buttons()[0].get("url"), "a link")
    url = f"https://discord.com/channels/{stage.band.id}/{stage.songs.id}/{card.id}"
    assert offer.buttons()[0]["url"] == url
    offer.components = [{"type": 1, "components": [stale]}]
    assert url in await stage.private(await stage.bob.press(offer, "Split all 2"))
    await stage.shows(card, "2 of 2 songs done")
    await stage.announced(stage.ann)


async def test_offer_goes_with_its_song(stage: Stage) -> None:
    await listen(stage, "button")
    first, second = [await stage.bob.post(stage.songs, "", SONG) for _ in range(2)]
    offers = [await offer_to(stage, post) for post in (first, second)]
    await stage.bob.delete(first)
    await stage.until(lambda: offers[0].deleted, "the offer to be deleted")
    await stage.bob.delete(second, first)
    await stage.until(lambda: offers[1].deleted, "the offer to be deleted")


async def test_song_in_a_direct_message_gets_an_offer(stage: Stage) -> None:
    channel = stage.fake.dm_of(stage.ann.user)
    for post in (
        await stage.ann.post(channel, "", SONG),
        await stage.ann.post(channel, "", Upload("clip.mp4", b"1", "video/mp4")),
    ):
        pressed = await stage.ann.press(await offer_to(stage, post), "Split into stems")
        await stage.shows(await stage.ann.answered(pressed), "4 stems")
    assert not replies(await stage.ann.post(channel, "hello"))


async def test_deleted_song_ends_its_unfinished_jobs(stage: Stage) -> None:
    await listen(stage, "auto")
    stage.bot.script(hold=["half"])
    posted = await stage.bob.post(stage.songs, "", SONG)
    card = await offer_to(stage, posted)
    by_menu = await stage.ann.answered(await stage.ann.menu(posted, "Stemify"))
    for message in (card, by_menu):
        await stage.shows(message, "**10 %**")
    await stage.chief.delete(posted)
    for message in (card, by_menu):
        await stage.shows(message, "### Deleted")
    stage.bot.script()
    await asyncio.sleep(0.5)
    assert not stage.fake.mentions_of(stage.bob.user) and not stage.fake.mentions_of(stage.ann.user)


async def test_deleted_card_ends_its_unfinished_job(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    _, card = await stage.ask()
    _, kept = await stage.ask()
    for message in (card, kept):
        await stage.shows(message, "**10 %**")
    await stage.chief.delete(card)
    await stage.until(lambda: len(list(stage.bot.folder.glob("*-*.json"))) >= 1)
    for _ in range(100):
        if len(mine(stage)) == 1:
            break
        await asyncio.sleep(0.05)
    assert len(mine(stage)) == 1
    stage.bot.script()
    await stage.shows(kept, "4 stems")
    await stage.announced(stage.ann)


async def test_card_deleted_after_the_end_keeps_the_job(stage: Stage) -> None:
    _, card = await stage.ask()
    await stage.announced(stage.ann)
    await stage.chief.delete(card)
    await asyncio.sleep(0.5)
    assert len(mine(stage)) == 1


def mine(stage: Stage) -> list[str]:
    """Return the names of the files with Ann's jobs."""
    return [path.name for path in stage.bot.folder.glob("*-*.json") if stage.ann.owner in path.read_text()]
