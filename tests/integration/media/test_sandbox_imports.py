"""Songs of all kinds are read after the child has confined itself and can import nothing more."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.media.decode import probe
from engine.media.limits import MediaLimits
from engine.media.sandbox import probe_in_sandbox
from tests.fixtures.songs import make_song
from tests.fixtures.tags import matroska

TITLES = {
    "French": "Été à l'évêché",
    "German": "Über ähnliche Öfen träumen",
    "cp1251": "Привет мир песня".encode("cp1251").decode("latin-1"),
    "cp932": "さくらさくらやよい".encode("cp932").decode("latin-1"),
    "cp1253": "καλημέρα κόσμε".encode("cp1253").decode("latin-1"),
    "cp1255": "שלום עולם שיר".encode("cp1255").decode("latin-1"),
    "gb18030": "月亮代表我的心".encode("gb18030").decode("latin-1"),
    "euc-kr": "사랑해요당신을".encode("euc-kr").decode("latin-1"),
    "euc-jp": "さくらさくら".encode("euc-jp").decode("latin-1"),
}


@pytest.mark.parametrize("encoding", TITLES)
async def test_title_is_the_same_in_the_sandbox(tmp_path: Path, encoding: str) -> None:
    make_song(tmp_path / "song.mp3", seconds=0.5, tags={"title": TITLES[encoding]})
    found = await probe_in_sandbox(tmp_path / "song.mp3", MediaLimits())
    assert found == probe(tmp_path / "song.mp3", MediaLimits())


async def test_song_beside_subtitles_is_read(tmp_path: Path) -> None:
    mix = make_song(tmp_path / "song.mkv", seconds=0.5)
    (tmp_path / "song.mkv").write_bytes(matroska.subtitles((tmp_path / "song.mkv").read_bytes()))
    assert (await probe_in_sandbox(tmp_path / "song.mkv", MediaLimits())).samples == mix.shape[1]
