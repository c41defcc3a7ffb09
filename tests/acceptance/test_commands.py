"""Commands, buttons and `/listen`, over real sockets; a scripted backend advances the jobs."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import Upload

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_song_becomes_card_and_one_mention_with_stems(stage: Stage) -> None:
    stage.bot.script(hold=["claim"])
    interaction, message = await stage.ask()
    await stage.shows(message, "Next in the queue")
    stage.bot.script(hold=["half"])
    await stage.shows(message, "**10 %**")
    stage.bot.script()
    await stage.shows(message, "4 stems ·")
    announcement = await stage.announced(stage.ann)
    assert [file.filename for file in message.attachments] == ["waveform.png"]
    assert announcement.reference == message.id
    assert [len(file.data) for file in announcement.attachments] == [1000] * 4
    assert {button.get("label") for button in message.buttons()} == {
        "Karaoke", "No drums", "No bass", "Mix…", "Listen", "Play in voice", "More"
    }  # fmt: skip
    await stage.until(lambda: stage.fake.requests("PATCH", f"/webhooks/.*{interaction.token}"), "an edit by token")
    assert not stage.fake.requests("PATCH", f"/channels/{stage.songs.id}/"), "the token must be used while it is valid"


async def test_file_and_link_together_or_neither_are_refused(stage: Stage) -> None:
    for options in ({}, {"file": SONG, "url": "https://youtu.be/dQw4w9WgXcQ"}):
        interaction = await stage.ann.slash(stage.songs, "stemify", **options)
        assert "not both" in await stage.private(interaction)


async def test_refused_song_creates_no_job(stage: Stage) -> None:
    stage.bot.script(refuse="That file is empty. Please send it again.")
    interaction = await stage.ann.slash(stage.songs, "stemify", file=SONG)
    assert await stage.private(interaction) == "That file is empty. Please send it again."
    listed = await stage.ann.slash(stage.songs, "job list")
    assert "no jobs yet" in await stage.private(listed)


async def test_choices_state_times_default_and_unusable_models(stage: Stage) -> None:
    choices = await stage.ann.complete(stage.songs, "stemify", "model", model="", quality="fast")
    assert [choice["value"] for choice in choices] == ["htdemucs", "hdemucs_mmi", "mdx_extra_q"]
    htdemucs, other, missing = (choice["name"] for choice in choices)
    traits = "4 stems · 1x the time · weights: scientific purposes only"
    assert htdemucs.startswith(f"htdemucs — default · 4-min song: 2 min · {traits}")
    assert other.startswith("hdemucs_mmi — 4-min song: 2 min · 4 stems ·")
    assert missing == "mdx_extra_q — not available: needs diffq"
    assert await stage.ann.complete(stage.songs, "stemify", "model", model="zzz") == []
    for model in ({}, {"model": "htd"}):
        choices = await stage.ann.complete(stage.songs, "stemify", "quality", quality="", **model)
        assert [(choice["value"], choice["name"]) for choice in choices] == [
            ("fast", "fast — 4-min song: 2 min"),
            ("balanced", "balanced — default · 4-min song: 4 min"),
            ("best", "best — 4-min song: 8 min"),
        ]
    interaction = await stage.ann.slash(stage.songs, "stemify", file=SONG, quality="superb")
    assert "quality" in await stage.private(interaction)
    interaction = await stage.ann.slash(stage.songs, "stemify", file=SONG, model="nonsense")
    assert "There is no model 'nonsense'" in await stage.private(interaction)


async def test_unusable_model_is_never_the_default(stage: Stage) -> None:
    stage.bot.script(missing_models=["htdemucs"], hold=["half"])
    choices = await stage.ann.complete(stage.songs, "stemify", "model", model="")
    assert [choice["value"] for choice in choices if "default" in choice["name"]] == ["hdemucs_mmi"]
    _, message = await stage.ask()
    await stage.shows(message, "hdemucs_mmi · balanced · mp3")


async def test_missing_model_offers_the_embedded_one(stage: Stage) -> None:
    advice = "Run “python -m engine models pull htdemucs”."
    stage.bot.script(fail=advice, fail_code="model_unavailable")
    _, message = await stage.ask()
    await stage.shows(message, "The model htdemucs is not available here right now.")
    announced = await stage.announced(stage.ann)
    assert "python" not in message.text + announced.text, "advice for the operator"
    again = await stage.ann.press(message, "Try with mini")
    second = await stage.ann.answered(again)
    await stage.shows(second, "The model mini is not available here right now.")
    assert [button["label"] for button in second.buttons()] == ["Retry"]
    stage.bot.script(hold=["half"])
    third = await stage.ann.answered(await stage.ann.press(second, "Retry"))
    await stage.shows(third, "mini · balanced · mp3")


async def test_karaoke_menu_and_offer_give_two_stems(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    posted = await stage.bob.post(stage.songs, "", SONG)
    menu = await stage.ann.menu(posted, "Karaoke")
    await stage.shows(await stage.ann.answered(menu), "htdemucs · balanced · mp3 · karaoke")
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="button"))
    await stage.bob.post(stage.songs, "", SONG)
    await stage.until(lambda: "I can split this" in stage.songs.visible()[-1].text, "the offer")
    offer = stage.songs.visible()[-1]
    assert [button["label"] for button in offer.buttons()] == ["Split into stems", "Karaoke", "More…"]
    pressed = await stage.ann.press(offer, "Karaoke")
    await stage.shows(await stage.ann.answered(pressed), "htdemucs · balanced · mp3 · karaoke")


async def test_cancel_requires_owner_or_moderator(stage: Stage) -> None:
    for canceller in (stage.ann, stage.chief):
        stage.bot.script(hold=["half"])
        _, message = await stage.ask()
        await stage.shows(message, "**10 %**")
        refused = await stage.bob.press(message, "Cancel")
        assert "Only the person who submitted" in await stage.private(refused)
        await canceller.press(message, "Cancel")
        await stage.shows(message, "Cancelled.")
    assert stage.fake.mentions_of(stage.ann.user) == []


async def test_failed_job_is_announced_once_and_can_be_retried(stage: Stage) -> None:
    stage.bot.script(fail="The worker process died while it was separating this song.")
    _, message = await stage.ask()
    await stage.shows(message, "Separation failed.")
    announced = await stage.announced(stage.ann)
    assert announced.text.endswith("could not be separated. Its card says why.")
    stage.bot.script()
    refused = await stage.bob.press(message, "Retry")
    assert "Only the person" in await stage.private(refused)
    again = await stage.ann.press(message, "Retry")
    await stage.shows(await stage.ann.answered(again), "4 stems ·")
    await stage.until(lambda: not message.buttons(), "the old card to lose its button")


async def test_keep_and_delete_buttons(stage: Stage) -> None:
    _, message = await stage.ask()
    await stage.shows(message, "Available until")
    announcement = await stage.announced(stage.ann)
    await stage.ann.press(await stage.more(stage.ann, message), "Keep")
    await stage.shows(message, "Kept until you delete it.")
    assert [file.filename for file in message.attachments] == ["waveform.png"]
    question = await stage.ann.press(await stage.more(stage.ann, message), "Delete now")
    assert "cannot be undone" in await stage.private(question)
    assert stage.songs.visible()[0].text != "Deleted"
    done = await stage.ann.press(question.answer, "Delete permanently")
    await stage.shows(message, "The song and its stems were deleted")
    await stage.until(lambda: announcement.deleted, "the attached stems to be deleted")
    await stage.shows(done.answer, "Deleted.")
    status = await stage.ann.slash(stage.songs, "job status", job="not a job")
    assert "no such job" in await stage.private(status)


async def test_status_is_private_and_hidden_outside_the_channel(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    _, message = await stage.ask()
    await stage.shows(message, "**10 %**")
    (choice,) = await stage.ann.complete(stage.songs, "job status", "job", job="blue")
    assert choice["name"] == "Blue Hour · separating, 10 %"
    elsewhere = stage.fake.channel(stage.band, "elsewhere")
    own = await stage.ann.slash(elsewhere, "job status", job=choice["value"])
    assert "**10 %**" in await stage.private(own)
    other = await stage.bob.slash(elsewhere, "job status", job=choice["value"])
    assert "no such job" in await stage.private(other)
    here = await stage.bob.slash(stage.songs, "job status", job=choice["value"])
    assert "**10 %**" in await stage.private(here)
    assert await stage.bob.complete(stage.songs, "job status", "job", job="") == []


async def test_job_commands_list_cancel_and_delete(stage: Stage) -> None:
    stage.bot.script(hold=["half"])
    _, message = await stage.ask()
    await stage.shows(message, "**10 %**")
    listed = await stage.private(await stage.ann.slash(stage.songs, "job list"))
    assert f"/{stage.songs.id}/{message.id}" in listed and "separating, 10 %" in listed
    (choice,) = await stage.ann.complete(stage.songs, "job cancel", "job", job="")
    assert "Cancelled **Blue Hour**" in await stage.private(
        await stage.ann.slash(stage.songs, "job cancel", job=choice["value"])
    )
    await stage.shows(message, "Cancelled.")
    assert await stage.ann.complete(stage.songs, "job cancel", "job", job="") == []
    too_late = await stage.ann.slash(stage.songs, "job cancel", job=choice["value"])
    assert "already finished" in await stage.private(too_late)
    question = await stage.ann.slash(stage.songs, "job delete", job=choice["value"])
    assert "cannot be undone" in await stage.private(question)
    await stage.ann.press(question.answer, "Delete permanently")
    await stage.shows(message, "Deleted")


async def test_every_old_job_is_found_and_listed(stage: Stage) -> None:
    stage.bot.script(hold=["claim"], accept_links=True)
    for name in ("needle", *[f"song {number}" for number in range(27)]):
        await stage.ask(Upload(f"{name}.mp3", b"1"))
    choice, _ = await stage.ann.complete(stage.songs, "job delete", "job", job="NEEDLE")
    assert choice["name"].startswith("needle")
    listed = await stage.ann.slash(stage.songs, "job list")
    assert (await stage.private(listed)).count("\n") == 9 and "song 26" in listed.answer.text
    assert [button["label"] for button in listed.answer.buttons()] == ["Older"]
    await stage.ann.press(listed.answer, "Older")
    await stage.shows(listed.answer, "song 16")
    await stage.ann.press(listed.answer, "Older")
    await stage.shows(listed.answer, "needle")
    assert [button["label"] for button in listed.answer.buttons()] == ["Newer"]


async def test_delete_everything_spares_other_users(stage: Stage) -> None:
    _, done = await stage.ask()
    announcement = await stage.announced(stage.ann)
    bobs = await stage.bob.answered(await stage.bob.slash(stage.songs, "stemify", file=SONG))
    await stage.shows(bobs, "Available until")
    stage.bot.script(hold=["half"])
    _, running = await stage.ask()
    await stage.shows(running, "**10 %**")
    *_, choice = await stage.ann.complete(stage.songs, "job delete", "job", job="")
    assert choice["name"].startswith("Everything")
    question = await stage.ann.slash(stage.songs, "job delete", job=choice["value"])
    assert "all your jobs" in await stage.private(question) and "Deleted" not in done.text
    pressed = await stage.ann.press(question.answer, "Delete everything permanently")
    for message in (done, running):
        await stage.shows(message, "The song and its stems were deleted")
    await stage.until(lambda: announcement.deleted, "the attached stems to be deleted")
    await stage.shows(pressed.answer, "Deleted 2 jobs with all songs and stems.")
    assert "no jobs yet" in await stage.private(await stage.ann.slash(stage.songs, "job list"))
    assert "Available until" in bobs.text
    with closing(sqlite3.connect(stage.bot.folder / "bot.sqlite3")) as database:
        owners = [row[0] for row in database.execute("SELECT user_id FROM posting")]
        assert stage.ann.user.id not in owners and stage.bob.user.id in owners
    assert stage.fake.mentions_of(stage.ann.user) == [announcement], (
        "a running job that is deleted must not be announced"
    )


async def test_listen_modes_are_set_by_server_managers_only(stage: Stage) -> None:
    with pytest.raises(PermissionError):
        await stage.ann.slash(stage.songs, "listen", mode="auto")
    await stage.bob.post(stage.songs, "", SONG)
    reply = await stage.private(await stage.chief.slash(stage.songs, "listen", mode="button"))
    assert "with a button" in reply and "Intent" not in reply
    post = await stage.bob.post(stage.songs, "", SONG)
    await stage.until(lambda: len(stage.songs.visible()) == 3, "an offer")
    offer = stage.songs.visible()[-1]
    assert offer.reference == post.id and offer.pinged == []
    pressed = await stage.ann.press(offer, "Split into stems")
    await stage.shows(await stage.ann.answered(pressed), "4 stems ·")
    assert "ready" in (await stage.announced(stage.ann)).text, "the user who pressed the button owns the job"

    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="auto"))
    post = await stage.bob.post(stage.songs, "", SONG)
    announcement = await stage.announced(stage.bob)
    card = stage.songs.messages[announcement.reference or 0]
    assert card.reference == post.id and "4 stems ·" in card.text

    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="off"))
    before = len(stage.songs.visible())
    await stage.bob.post(stage.songs, "", SONG)
    await asyncio.sleep(0.3)
    assert len(stage.songs.visible()) == before + 1


async def test_split_button_of_deleted_message_is_refused(stage: Stage) -> None:
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="button"))
    post = await stage.bob.post(stage.songs, "", SONG)
    await stage.until(lambda: len(stage.songs.visible()) >= 2, "an offer")
    post.deleted = True
    pressed = await stage.ann.press(stage.songs.visible()[-1], "Split")
    assert "was deleted" in await stage.private(pressed)


async def test_untrusted_names_neither_mention_nor_format(stage: Stage) -> None:
    name = f"@everyone <@{stage.bob.user.id}> **x** \u202e.mp3"
    _, message = await stage.ask(Upload(name, b"1"))
    await stage.shows(message, "4 stems ·")
    await stage.announced(stage.ann)
    assert stage.fake.mentions_of(stage.bob.user) == []
    assert all(0 not in shown.pinged for shown in stage.songs.visible())
    assert r"\*\*x\*\*" in message.text


async def test_direct_message_job_is_announced_there(stage: Stage) -> None:
    channel = stage.fake.dm_of(stage.ann.user)
    interaction = await stage.ann.slash(channel, "stemify", file=SONG)
    await stage.shows(await stage.ann.answered(interaction), "4 stems ·")
    assert (await stage.announced(stage.ann)).channel is channel
