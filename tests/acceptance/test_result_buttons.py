"""The buttons of a result's card: mixes that are posted once each, and what *More* offers."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import Stage
from tests.fakes.discord import Interaction, Message
from tests.fakes.discord.state import MIB

KARAOKE = r"**Blue Hour \(karaoke\)**"

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def result_card(stage: Stage) -> Message:
    _, message = await stage.ask()
    await stage.shows(message, "4 stems ·")
    await stage.announced(stage.ann)
    return message


def mixes(stage: Stage) -> list[Message]:
    return [message for message in stage.songs.visible() if message.text.startswith(r"**Blue Hour \(")]


async def link(stage: Stage, interaction: Interaction) -> str:
    await stage.until(lambda: interaction.original and "channels/" in interaction.answer.text, "the link")
    assert interaction.answer.ephemeral
    return interaction.answer.text.rpartition("/")[2]


async def test_second_press_while_mix_is_made(stage: Stage) -> None:
    message = await result_card(stage)
    stage.bot.script(hold=["mix"])
    first = await stage.ann.press(message, "Karaoke")
    await stage.until(lambda: first.acked_at, "the acknowledgement")
    second = await stage.bob.press(message, "Karaoke")
    assert "is being made" in await stage.private(second)
    stage.bot.script()
    assert [await link(stage, first)] == [str(posted.id) for posted in mixes(stage)]


async def test_mix_is_posted_once_and_survives_a_restart(stage: Stage) -> None:
    message = await result_card(stage)
    first = await link(stage, await stage.ann.press(message, "Karaoke"))
    (posted,) = mixes(stage)
    assert first == await link(stage, await stage.bob.press(message, "Karaoke")) == str(posted.id)
    assert (posted.text, posted.reference, posted.pinged) == (KARAOKE, message.id, [])
    assert [(file.filename, file.description) for file in posted.attachments] == [
        ("Blue Hour (karaoke).mp3", "Blue Hour (karaoke)")
    ]
    await stage.bot.kill()
    await stage.bot.start()
    assert await link(stage, await stage.bob.press(message, "Karaoke")) == first
    await link(stage, await stage.bob.press(message, "No drums"))
    assert [each.text for each in mixes(stage)] == [KARAOKE, r"**Blue Hour \(no drums\)**"]


async def test_deleted_mix_is_posted_again(stage: Stage) -> None:
    message = await result_card(stage)
    await link(stage, await stage.ann.press(message, "No bass"))
    mixes(stage)[0].deleted = True
    again = await link(stage, await stage.ann.press(message, "No bass"))
    assert [str(posted.id) for posted in mixes(stage)] == [again]


async def test_mix_is_deleted_with_its_job(stage: Stage) -> None:
    message = await result_card(stage)
    await link(stage, await stage.ann.press(message, "Karaoke"))
    (posted,) = mixes(stage)
    question = await stage.ann.press(await stage.more(stage.ann, message), "Delete now")
    await stage.private(question)
    await stage.ann.press(question.answer, "Delete permanently")
    await stage.until(lambda: posted.deleted, "the deletion of the mix")


async def test_failed_mix_is_refused_privately(stage: Stage) -> None:
    message = await result_card(stage)
    stage.bot.script(mix_error="The mix could not be made.")
    pressed = await stage.ann.press(message, "Karaoke")
    assert "could not be made" in await stage.private(pressed)
    assert mixes(stage) == []


async def test_large_mix_is_posted_at_lower_rate(stage: Stage) -> None:
    message = await result_card(stage)
    stage.bot.script(mix_bytes=12 * MIB)
    await link(stage, await stage.ann.press(message, "Karaoke"))
    (posted,) = mixes(stage)
    assert posted.text.endswith("· 192 kbit/s") and len(posted.attachments[0].data) == 10 * MIB


async def test_mix_refused_as_too_large_gives_private_error(stage: Stage) -> None:
    message = await result_card(stage)
    stage.songs.upload_limit_bytes = 100
    pressed = await stage.ann.press(message, "Karaoke")
    assert "too large to attach" in await stage.private(pressed)
    assert mixes(stage) == []


async def test_mix_without_permission_to_send_uses_token(stage: Stage) -> None:
    message = await result_card(stage)
    stage.songs.bot_permissions = 0
    pressed = await stage.ann.press(message, "Karaoke")
    await link(stage, pressed)
    (posted,) = pressed.followups
    assert not posted.ephemeral and posted.attachments


# The form of "Mix…".


async def test_form_gives_the_mix_that_it_asks_for(stage: Stage) -> None:
    message = await result_card(stage)
    asked = await stage.bob.press(message, "Mix…")
    filled = await stage.bob.fill(asked, stems="no drums", volumes="bass 50", key="-2", tempo="90 %", part="0:10–0:30")
    first = await link(stage, filled)
    (posted,) = mixes(stage)
    assert str(posted.id) == first and posted.reference == message.id
    assert posted.text.replace("\\", "") == "**Blue Hour (no drums, bass −6 dB, 0:10–0:30, −2, 90 %)**"
    again = await stage.ann.fill(asked, stems="no drums", volumes="Bass: 50%", key="−2", tempo="90", part="10 - 30")
    assert await link(stage, again) == first, "the same mix is posted once"


async def test_form_without_changes_repeats_the_karaoke_button(stage: Stage) -> None:
    message = await result_card(stage)
    first = await link(stage, await stage.ann.press(message, "Karaoke"))
    filled = await stage.ann.fill(await stage.ann.press(message, "Mix…"), stems="no vocals")
    assert await link(stage, filled) == first


async def test_form_works_after_restart(stage: Stage) -> None:
    message = await result_card(stage)
    asked = await stage.ann.press(message, "Mix…")
    await stage.until(lambda: asked.modal, "the form")
    await stage.bot.kill()
    await stage.bot.start()
    await link(stage, await stage.ann.fill(asked, stems="only bass"))
    assert [each.text for each in mixes(stage)] == [r"**Blue Hour \(only bass\)**"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"volumes": "loud"}, "Give volumes from 0 to 400 percent"),
        ({"volumes": "guitar 50"}, "no stem 'guitar'"),
        ({"volumes": "vocals 900"}, "Give volumes from 0 to 400 percent"),
        ({"stems": "only bass", "volumes": "bass 0"}, "All stems are silent"),
        ({"key": "F minor"}, "Give the key in semitones"),
        ({"key": "13"}, "from -12 to 12"),
        ({"tempo": "fast"}, "Give the tempo in percent"),
        ({"tempo": "0.9"}, "from 50 to 150 percent"),
        ({"part": "chorus"}, "Give the part as two times"),
        ({"part": "0:40-0:20"}, "from must be before"),
        ({"part": "5:00-6:00"}, "after the end of the song"),
    ],
    ids=str,
)
async def test_invalid_form_is_refused_privately(stage: Stage, values: dict[str, str], reason: str) -> None:
    message = await result_card(stage)
    filled = await stage.ann.fill(await stage.ann.press(message, "Mix…"), **values)
    assert reason in await stage.private(filled)
    assert mixes(stage) == []


# "More".


async def test_more_offers_what_the_user_may_do(stage: Stage) -> None:
    message = await result_card(stage)
    assert "common gain" not in message.text
    for person, labels in (
        (stage.ann, ["Details", "Separate again…", "Try models on 30 s…", "Keep", "Delete now"]),
        (stage.bob, ["Details"]),
        (stage.chief, ["Details", "Delete now"]),
    ):
        more = await stage.more(person, message)
        assert [button["label"] for button in more.buttons()] == labels
    assert "common gain: +0.00 dB" in await stage.private(await stage.chief.press(more, "Details"))
    mine = await stage.more(stage.ann, message)
    await stage.ann.press(mine, "Keep")
    await stage.shows(mine, "Kept until you delete it.")
    await stage.shows(message, "Kept until you delete it.")
    assert "Keep" not in [button["label"] for button in mine.buttons()]


async def test_song_is_separated_again_with_other_options(stage: Stage) -> None:
    message = await result_card(stage)
    asked = await stage.ann.press(await stage.more(stage.ann, message), "Separate again…")
    filled = await stage.ann.fill(asked, quality="best", output_format="flac", stems="karaoke")
    stage.bot.script(hold=["half"])
    await stage.shows(await stage.ann.answered(filled), "htdemucs · best · flac · karaoke")
    stage.bot.script()
    await stage.until(lambda: len(stage.fake.mentions_of(stage.ann.user)) == 2, "the second announcement")
    stranger = await stage.bob.fill(asked)
    assert "Only the person" in await stage.private(stranger)


async def test_song_that_is_gone_is_not_separated_again(stage: Stage) -> None:
    message = await result_card(stage)
    asked = await stage.ann.press(await stage.more(stage.ann, message), "Separate again…")
    stage.bot.script(song_gone=True)
    refused = await stage.ann.fill(asked)
    assert "Send it again" in await stage.private(refused)
    assert "Separate again…" not in [button["label"] for button in (await stage.more(stage.ann, message)).buttons()]
