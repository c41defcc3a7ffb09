"""The form with options before a separation: of a message menu, and of an offer under a song."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import Interaction, Message

pytestmark = pytest.mark.asyncio(loop_scope="module")

MENU = "Stemify with options"


async def offer(stage: Stage) -> Message:
    """Return the offer under a song of Bob."""
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="button"))
    post = await stage.bob.post(stage.songs, "", SONG)

    def replies() -> list[Message]:
        return [message for message in stage.songs.visible() if message.reference == post.id]

    await stage.until(replies, "an offer")
    return replies()[0]


async def menu_form(stage: Stage) -> Interaction:
    """Return Ann's interaction, which the bot answers with a form."""
    asked = await stage.ann.menu(await stage.bob.post(stage.songs, "", SONG), MENU)
    await stage.until(lambda: asked.modal is not None, "a form")
    return asked


async def finished_card(stage: Stage, filled: Interaction) -> Message:
    card = await stage.ann.answered(filled)
    await stage.shows(card, "4 stems ·")
    return card


async def options_of(stage: Stage, card: Message) -> str:
    return (await stage.more(stage.ann, card)).text.splitlines()[1]


async def test_song_of_a_message_is_split_with_chosen_options(stage: Stage) -> None:
    filled = await stage.ann.fill(await menu_form(stage), model="hdemucs_mmi", quality="fast", output_format="flac")
    assert await options_of(stage, await finished_card(stage, filled)) == "hdemucs_mmi · fast · flac"


async def test_form_shows_the_defaults_of_the_server(server: Stage) -> None:
    await server.settings("defaults", quality="fast", format="wav")
    filled = await server.ann.fill(await menu_form(server), stems="karaoke")
    assert await options_of(server, await finished_card(server, filled)) == "htdemucs · fast · wav · karaoke"


async def test_offer_with_options_becomes_a_link(server: Stage) -> None:
    reply = await offer(server)
    asked, late = await server.ann.press(reply, "More…"), await server.bob.press(reply, "More…")
    await server.until(lambda: late.modal is not None, "a second form")
    card = await finished_card(server, await server.ann.fill(asked, quality="best"))
    assert await options_of(server, card) == "htdemucs · best · mp3"
    await server.until(lambda: [button["label"] for button in reply.buttons()] == ["Go to the stems"], "a link")
    assert "made already" in await server.private(await server.bob.fill(late))


async def test_form_works_after_a_restart(stage: Stage) -> None:
    asked = await menu_form(stage)
    await stage.bot.stop()
    await stage.bot.start()
    await finished_card(stage, await stage.ann.fill(asked))


async def test_form_works_where_the_bot_is_not_a_member(stage: Stage) -> None:
    stage.songs = stage.fake.channel(stage.fake.guild("Elsewhere", bot_is_member=False))
    await finished_card(stage, await stage.ann.fill(await menu_form(stage)))


async def test_options_that_exclude_each_other_are_refused(stage: Stage) -> None:
    asked = await menu_form(stage)
    refused = await stage.ann.fill(asked, model="automatic", output_format="stem", stems="karaoke")
    assert "A stem file needs" in await stage.private(refused)
    await finished_card(stage, await stage.ann.fill(asked))


async def test_refusals_come_instead_of_the_form(server: Stage) -> None:
    refused = await server.ann.menu(await server.bob.post(server.songs, "no song"), MENU)
    assert "There is no audio in that message" in await server.private(refused)
    reply = await offer(server)
    await server.settings("block", user=server.ann.user)
    for interaction in (
        await server.ann.press(reply, "More…"),
        await server.ann.menu(await server.bob.post(server.songs, "", SONG), MENU),
    ):
        assert "blocked you" in await server.private(interaction)
        assert interaction.modal is None
