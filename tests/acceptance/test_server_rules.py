"""The rules of a server hold for every way to start a job, and for every way to hear one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.acceptance.conftest import COMPARED, SONG, Stage
from tests.fakes.discord import Interaction, Message, Upload

pytestmark = pytest.mark.asyncio(loop_scope="module")

TWO = (Upload("one.mp3", bytes(200_000)), Upload("two.mp3", bytes(200_001)))
Start = Callable[[], Awaitable[Interaction]]
Rules = dict[str, tuple[dict[str, Any], dict[str, Any], str]]
"""By subcommand of `/settings`: options that forbid Ann to start jobs, options that undo it, the refusal."""


async def slash(stage: Stage) -> Start:
    return lambda: stage.ann.slash(stage.songs, "stemify", file=SONG)


async def menu(stage: Stage) -> Start:
    post = await stage.bob.post(stage.songs, "", SONG)
    return lambda: stage.ann.menu(post, "Stemify")


async def batch(stage: Stage) -> Start:
    post = await stage.bob.post(stage.songs, "", *TWO)
    return lambda: stage.ann.menu(post, "Stemify")


async def offer(stage: Stage) -> Start:
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="button"))
    reply = await reply_to(stage, await stage.bob.post(stage.songs, "", SONG))
    return lambda: stage.ann.press(reply, "Split into stems")


async def retry(stage: Stage) -> Start:
    stage.bot.script(fail="It did not work.")
    _, card = await stage.ask()
    await stage.shows(card, "Separation failed")
    stage.bot.script()
    return lambda: stage.ann.press(card, "Retry")


async def again(stage: Stage) -> Start:
    asked = await stage.ann.press(await stage.more(stage.ann, await result_card(stage)), "Separate again…")
    return lambda: stage.ann.fill(asked)


async def menu_form(stage: Stage) -> Start:
    post = await stage.bob.post(stage.songs, "", SONG)
    asked = await stage.ann.menu(post, "Stemify with options")
    return lambda: stage.ann.fill(asked)


async def offer_form(stage: Stage) -> Start:
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="button"))
    asked = await stage.ann.press(await reply_to(stage, await stage.bob.post(stage.songs, "", SONG)), "More…")
    return lambda: stage.ann.fill(asked)


async def compare(stage: Stage) -> Start:
    asked = await stage.ann.press(await stage.more(stage.ann, await result_card(stage)), "Try models on 30 s…")
    return lambda: stage.ann.fill(asked, models="\n".join(COMPARED))


async def winner(stage: Stage) -> Start:
    card, _ = await stage.compare()
    chosen = await stage.ann.press(card, "A")
    await stage.private(chosen)
    return lambda: stage.ann.press(chosen.answer, f"Separate the whole song with {COMPARED[1]}")


WAYS = {
    "slash": slash,
    "menu": menu,
    "batch": batch,
    "offer": offer,
    "retry": retry,
    "again": again,
    "menu_form": menu_form,
    "offer_form": offer_form,
    "compare": compare,
    "winner": winner,
}
JOBS_BEFORE = {"retry": 1, "again": 1, "compare": 1, "winner": 2}
JOBS = {"batch": 2}


async def reply_to(stage: Stage, post: Message) -> Message:
    def replies() -> list[Message]:
        return [message for message in post.channel.visible() if message.reference == post.id]

    await stage.until(replies, "a reply")
    return replies()[0]


async def result_card(stage: Stage) -> Message:
    _, card = await stage.ask()
    await stage.shows(card, "4 stems ·")
    return card


async def rules_against_ann(stage: Stage) -> Rules:
    singers = await stage.fake.role(stage.band, "Singers")
    studio = stage.fake.channel(stage.band, "studio")
    await stage.fake.gateway.dispatch("CHANNEL_CREATE", studio.json())
    ann, no = stage.ann.user, {"allowed": False}
    return {
        "role": ({"role": singers}, {"role": singers} | no, "you need one of these roles to split songs: **Singers**"),
        "channel": ({"channel": studio}, {"channel": studio} | no, f"can only be split in <#{studio.id}>"),
        "block": ({"user": ann}, {"user": ann, "blocked": False}, "blocked you from using this bot here"),
        "limit": ({"songs": 0}, {}, "You may not split songs in this server"),
    }


def threads_with_files(stage: Stage) -> list[Message]:
    threads = [channel for channel in stage.fake.channels.values() if channel.parent is stage.songs]
    return [message for thread in threads for message in thread.visible() if message.attachments]


@pytest.mark.parametrize("way", WAYS)
async def test_rules_hold_for_every_way_to_start(server: Stage, way: str) -> None:
    start = await WAYS[way](server)
    before, jobs = JOBS_BEFORE.get(way, 0), JOBS.get(way, 1)
    for name, (forbid, undo, refusal) in (await rules_against_ann(server)).items():
        await server.settings(name, **forbid)
        assert refusal in await server.private(await start()), name
        await server.settings(name, **undo)
    await server.settings("results", stems="thread")
    await server.settings("limit", songs=before + jobs)
    await start()
    await server.until(lambda: len(threads_with_files(server)) == jobs, "stems in a thread")
    refused = await server.ann.slash(server.songs, "stemify", file=SONG)
    assert f"This server allows you {before + jobs} song" in await server.private(refused)


async def test_rules_hold_for_songs_in_auto_mode(server: Stage) -> None:
    await server.private(await server.chief.slash(server.songs, "listen", mode="auto"))
    ignored = []
    for name, (forbid, undo, _) in (await rules_against_ann(server)).items():
        await server.settings(name, **forbid)
        ignored.append(await server.ann.post(server.songs, "", SONG))
        await server.settings(name, **undo)
    await server.settings("results", stems="thread")
    await server.settings("limit", songs=1)
    card = await reply_to(server, await server.ann.post(server.songs, "", SONG))
    await server.shows(card, "4 stems ·")
    await server.until(lambda: len(threads_with_files(server)) == 1, "stems in a thread")
    refused = await reply_to(server, await server.ann.post(server.songs, "", SONG))
    assert "This server allows you 1 song an hour" in refused.text
    assert not {message.reference for message in server.songs.visible()} & {post.id for post in ignored}


async def test_rules_hold_for_songs_in_voice_channels(server: Stage) -> None:
    job_id = (await result_card(server)).button("More")["custom_id"].rpartition(":")[2]
    rules = await rules_against_ann(server)
    for name in ("role", "channel", "block"):
        forbid, undo, refusal = rules[name]
        await server.settings(name, **forbid)
        assert refusal in await server.private(await server.ann.slash(server.songs, "play", job=job_id)), name
        await server.settings(name, **undo)
    played = await server.ann.slash(server.songs, "play", job=job_id)
    assert await server.private(played) == "Join a voice channel first."


async def test_only_the_requester_presses_where_that_is_the_rule(server: Stage) -> None:
    card = await result_card(server)
    for rule, is_allowed in (("requester", False), ("everyone", True)):
        await server.settings("results", mixes=rule)
        pressed = [await server.bob.press(card, label) for label in ("No bass", "Play in voice")]
        pressed.append(await server.bob.fill(await server.bob.press(card, "Mix…"), key="2"))
        for interaction in pressed:
            refused = "only the person who asked for the stems" in await server.private(interaction)
            assert refused is not is_allowed
