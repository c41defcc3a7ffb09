"""`/settings`: what the managers of a server decide, and where it holds."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import Channel, Message, Person, Upload
from tests.fakes.discord.state import CREATE_THREADS, EVERYDAY, MANAGE_GUILD

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def refusal(stage: Stage, person: Person, channel: Channel | None = None) -> str:
    return await stage.private(await person.slash(channel or stage.songs, "stemify", file=SONG))


async def test_settings_are_shown_to_managers_only(server: Stage) -> None:
    assert await server.settings("show") == (
        "**Default:** htdemucs · balanced · mp3\n**Who:** everyone\n**Where:** every channel\n"
        "**Songs an hour:** no limit of this server\n**Stems:** in the channel\n**Mixes:** by everyone in the channel\n"
        "**Voice:** buttons for everyone in the channel"
    )
    with pytest.raises(PermissionError):
        await server.ann.slash(server.songs, "settings show")


async def test_defaults_of_the_server_apply_to_its_songs(server: Stage) -> None:
    assert "**Default:** hdemucs_mmi · fast · flac" in await server.settings(
        "defaults", model="hdemucs_mmi", quality="fast", format="flac"
    )
    _, message = await server.ask()
    await server.shows(message, "4 stems ·")
    more = await server.more(server.ann, message)
    assert "hdemucs_mmi · fast · flac" in more.text
    assert any(choice["name"].startswith("fast — default") for choice in await server.ann.complete(
        server.songs, "stemify", "quality", file=SONG, quality=""
    ))  # fmt: skip
    cleared = await server.settings("defaults", model="operator's", quality="operator's", format="operator's")
    assert "**Default:** htdemucs · balanced · mp3" in cleared


async def test_unknown_default_model_is_refused(server: Stage) -> None:
    assert "There is no model 'htdemux'" in await server.settings("defaults", model="htdemux")
    assert "htdemucs · balanced" in await server.settings("show")


async def test_only_allowed_roles_split_songs(server: Stage) -> None:
    singers = await server.fake.role(server.band, "Singers")
    assert f"**Who:** <@&{singers.id}>" in await server.settings("role", role=singers)
    assert await refusal(server, server.ann) == (
        "In this server you need one of these roles to split songs: **Singers**. "
        "Server managers can change that with `/settings`."
    )
    server.ann.roles.append(singers)
    await server.finish_job()
    assert "**Who:** everyone" in await server.settings("role", role=singers, allowed=False)


async def test_only_allowed_channels_take_songs(server: Stage) -> None:
    studio = server.fake.channel(server.band, "studio")
    await server.fake.gateway.dispatch("CHANNEL_CREATE", studio.json())
    await server.private(await server.chief.slash(server.songs, "listen", mode="button"))
    assert f"**Where:** <#{studio.id}>" in await server.settings("channel", channel=studio)
    assert f"songs can only be split in <#{studio.id}>" in await refusal(server, server.ann)
    post = await server.bob.post(server.songs, "", SONG)
    thread = server.fake.thread(studio)
    await server.fake.gateway.dispatch("THREAD_CREATE", thread.json())
    await server.ann.answered(allowed := await server.ann.slash(thread, "stemify", file=SONG))
    await server.shows(allowed.answer, "4 stems ·")
    assert not [message for message in server.songs.visible() if message.reference == post.id], "no offer"


async def test_songs_an_hour_are_limited_by_the_best_role(server: Stage) -> None:
    patrons = await server.fake.role(server.band, "Patrons")
    await server.settings("limit", songs=1)
    assert f"1 for everyone, 2 for <@&{patrons.id}>" in await server.settings("limit", songs=2, role=patrons)
    await server.finish_job()
    assert "This server allows you 1 song an hour. Try again <t:" in await refusal(server, server.ann)
    server.ann.roles.append(patrons)
    await server.finish_job()
    assert "allows you 2 songs an hour" in await refusal(server, server.ann)
    assert "no limit of this server, 2 for" in await server.settings("limit")
    assert "**Songs an hour:** no limit of this server\n" in await server.settings("limit", role=patrons)
    await server.finish_job()


async def test_refused_song_does_not_count_for_the_server(server: Stage) -> None:
    await server.settings("limit", songs=1)
    server.bot.script(refuse="This file is not audio.")
    await refusal(server, server.ann)
    server.bot.script()
    await server.finish_job()


async def test_limit_of_none_refuses_everyone(server: Stage) -> None:
    await server.settings("limit", songs=0)
    assert "You may not split songs in this server" in await refusal(server, server.ann)


async def test_blocked_user_starts_and_mixes_nothing(server: Stage) -> None:
    _, message = await server.ask()
    await server.shows(message, "4 stems ·")
    assert f"**Blocked:** <@{server.ann.user.id}>" in await server.settings("block", user=server.ann.user)
    assert "blocked you" in await refusal(server, server.ann)
    assert "blocked you" in await server.private(await server.ann.press(message, "Karaoke"))
    elsewhere = server.fake.channel(server.fake.guild("Other", bot_is_member=False))
    await server.ann.answered(other := await server.ann.slash(elsewhere, "stemify", file=SONG))
    await server.shows(other.answer, "4 stems ·")
    assert "Blocked" not in await server.settings("block", user=server.ann.user, blocked=False)
    await server.finish_job()


async def test_mixes_can_be_left_to_the_requester(server: Stage) -> None:
    await server.settings("results", mixes="requester")
    _, message = await server.ask()
    await server.shows(message, "4 stems ·")
    assert "only the person who asked for the stems" in await server.private(await server.bob.press(message, "Karaoke"))
    assert "Your mix: https://" in await server.private(await server.ann.press(message, "Karaoke"))


async def test_activity_names_users_and_deletes_jobs(server: Stage) -> None:
    assert await server.settings("activity") == "No songs were split in this server in the last 30 days."
    _, message = await server.ask()
    await server.shows(message, "4 stems ·")
    text = await server.settings("activity")
    assert f"**Last 30 days:** 1 song · <@{server.ann.user.id}> 1" in text
    assert "Blue Hour" in text and " · done · <t:" in text
    (choice,) = await server.chief.complete(server.songs, "settings delete", "job", job="blue")
    assert "Deleted" in await server.settings("delete", job=choice["value"])
    await server.until(lambda: message.deleted or "Deleted" in message.text, "the card to change")


async def test_job_of_another_server_cannot_be_deleted(server: Stage) -> None:
    _, message = await server.ask()
    await server.shows(message, "4 stems ·")
    job_id = message.button("More")["custom_id"].rpartition(":")[2]
    other = server.fake.guild("Rivals")
    channel = server.fake.channel(other)
    await server.fake.gateway.join(other)
    rival = Person(server.fake, "rival", permissions=EVERYDAY | MANAGE_GUILD)
    answer = await server.private(await rival.slash(channel, "settings delete", job=job_id))
    assert "no such job" in answer.lower() or "not found" in answer.lower() or "There is no" in answer


async def test_settings_hold_after_a_restart(server: Stage) -> None:
    await server.settings("results", stems="thread", mixes="requester")
    await server.bot.stop()
    await server.bot.start()
    assert "in a thread below the card\n**Mixes:** by the requester only" in await server.settings("show")


async def test_stems_are_posted_in_a_thread_of_the_card(server: Stage) -> None:
    await server.settings("results", stems="thread")
    _, message = await server.ask()
    await server.shows(message, "4 stems ·")
    announcement = await server.announced(server.ann)
    assert announcement.channel.parent is server.songs and announcement.channel.id == message.id
    assert len(announcement.attachments) == 4
    assert announcement.channel.name == "Stems", "the title would outlast the job"
    mix = await server.private(await server.ann.press(message, "Karaoke"))
    assert f"/channels/{server.band.id}/{message.id}/" in mix, "the mix is in the thread"


async def test_forbidden_thread_is_replaced_by_the_channel(server: Stage) -> None:
    await server.settings("results", stems="thread")
    server.songs.bot_permissions &= ~CREATE_THREADS
    _, message = await server.ask()
    await server.shows(message, "4 stems ·")
    announcement: Message = await server.announced(server.ann)
    assert announcement.channel is server.songs and len(announcement.attachments) == 4


async def test_defaults_that_exclude_each_other_are_refused(server: Stage) -> None:
    answer = await server.settings("defaults", model="melband_vocals", format="stem")
    assert "A stem file needs vocals, drums, bass and other" in answer
    assert "htdemucs · balanced · mp3" in await server.settings("show")


async def test_deleted_role_leaves_the_list(server: Stage) -> None:
    singers = await server.fake.role(server.band, "Singers")
    await server.settings("role", role=singers)
    await server.settings("limit", songs=3, role=singers)
    server.band.roles.remove(singers)
    data = {"guild_id": str(server.band.id), "role_id": str(singers.id)}
    await server.fake.gateway.dispatch("GUILD_ROLE_DELETE", data)
    shown = await server.settings("show")
    assert "**Who:** everyone" in shown and "no limit of this server\n" in shown


async def test_full_settings_and_activity_fit_into_messages(server: Stage) -> None:
    for number in range(14):
        role = await server.fake.role(server.band, f"Role {number}")
        await server.settings("role", role=role)
        await server.settings("limit", songs=1000, role=role)
        await server.settings("block", user=server.fake.user(f"user {number}"))
    assert "Blocked" in await server.settings("show")
    refused = await server.settings("block", user=server.fake.user("one more"))
    assert refused == "At most 14 of them. Remove one first."
    server.ann.roles.append(server.band.roles[0])
    for number in range(11):
        await server.ask(Upload(f"{'A long name of a song ' * 3}{number}.mp3", bytes(200_000)))
    text = await server.settings("activity")
    assert "**Last 30 days:** 11 songs" in text and "`/settings block`" in text and len(text) <= 2000
