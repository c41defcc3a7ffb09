"""Songs that are found in messages: by the menus and in listening channels, forwarded ones too."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import Upload

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_menu_without_a_song_is_refused(stage: Stage) -> None:
    plain = await stage.bob.post(stage.songs, "no audio")
    assert "no audio in that message" in await stage.private(await stage.ann.menu(plain, "Stemify"))
    link = await stage.bob.post(stage.songs, "this one: https://youtu.be/dQw4w9WgXcQ !")
    assert await stage.private(await stage.ann.menu(link, "Stemify")) == "Links are not scripted."


@pytest.mark.parametrize("name", ["a.aiff", "b.CAF", "c.3gp", "d.m4b", "e.m4r", "f.w64", "g.mka", "h.mp2"])
async def test_menu_accepts_every_readable_type(stage: Stage, name: str) -> None:
    post = await stage.bob.post(stage.songs, "", Upload(name, b"1", "application/octet-stream"))
    await stage.shows(await stage.ann.answered(await stage.ann.menu(post, "Stemify")), "4 stems ·")


async def test_two_links_are_a_batch_by_menu_and_command(stage: Stage) -> None:
    text = "https://youtu.be/dQw4w9WgXcQ or https://www.youtube.com/live/aaaaaaaaaaa"
    post = await stage.bob.post(stage.songs, text)
    by_menu = await stage.private(await stage.ann.menu(post, "Stemify"))
    by_command = await stage.private(await stage.ann.slash(stage.songs, "stemify", url=text))
    assert by_menu == by_command
    assert "youtu.be/dQw4w9WgXcQ: Links are not scripted. youtu.be/aaaaaaaaaaa: Links" in by_menu


async def test_menu_splits_a_forwarded_song(stage: Stage) -> None:
    elsewhere = stage.fake.channel(stage.band, "elsewhere")
    voice = Upload("voice-message.ogg", b"1", "audio/ogg")
    for upload in (SONG, voice):
        forward = await stage.bob.forward(await stage.bob.post(elsewhere, "listen", upload), stage.songs)
        await stage.shows(await stage.ann.answered(await stage.ann.menu(forward, "Stemify")), "4 stems ·")


async def test_menu_finds_a_forwarded_link(stage: Stage) -> None:
    elsewhere = stage.fake.channel(stage.band, "elsewhere")
    forward = await stage.bob.forward(await stage.bob.post(elsewhere, "https://youtu.be/dQw4w9WgXcQ"), stage.songs)
    assert await stage.private(await stage.ann.menu(forward, "Stemify")) == "Links are not scripted."


async def test_listen_button_splits_a_forwarded_song(stage: Stage) -> None:
    elsewhere = stage.fake.channel(stage.band, "elsewhere")
    song = await stage.bob.post(elsewhere, "", SONG)
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="button"))
    await stage.bob.forward(song, stage.songs)
    await stage.until(lambda: "I can split" in stage.songs.visible()[-1].text, "an offer")
    pressed = await stage.ann.press(stage.songs.visible()[-1], "Split into stems")
    await stage.shows(await stage.ann.answered(pressed), "4 stems ·")


async def test_listen_auto_splits_a_forwarded_song(stage: Stage) -> None:
    elsewhere = stage.fake.channel(stage.band, "elsewhere")
    song = await stage.bob.post(elsewhere, "", SONG)
    await stage.private(await stage.chief.slash(stage.songs, "listen", mode="auto"))
    await stage.bob.forward(song, stage.songs)
    await stage.announced(stage.bob)
