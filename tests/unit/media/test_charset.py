"""Tags marked with the wrong encoding are repaired, true Latin-1 is unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.media.charset import repair
from engine.media.decode import probe
from engine.media.limits import MediaLimits
from tests.fixtures.songs import make_song

FOREIGN = [
    ("Группа крови", "cp1251"),
    ("КИНО - Звезда по имени Солнце", "cp1251"),
    ("Владимир Высоцкий (live)", "cp1251"),
    ("Τα παιδιά του Πειραιά", "cp1253"),
    ("ירושלים של זהב", "cp1255"),
    ("月亮代表我的心", "gb18030"),
    ("我爱你中国", "gb18030"),
    ("さくらさくら", "cp932"),
    ("上を向いて歩こう", "cp932"),
    ("さくらのうた", "euc-jp"),
    ("강남스타일", "euc-kr"),
    ("아리랑", "euc-kr"),
    ("Группа крови", "utf-8"),
    ("ПОЛЮШКО-ПОЛЕ", "cp1251"),
    ("사랑했지만", "euc-kr"),
    ("Ελλάδα", "cp1253"),
    ("Σ' αγαπώ", "cp1253"),
    ("Ляпис Трубецкой", "cp1251"),
    ("Київ", "cp1251"),
    ("Пикник", "cp1251"),
    ("Группа крови", "koi8-r"),
    ("КИНО", "koi8-r"),
    ("Машина времени", "koi8-r"),
    ("Море", "koi8-r"),
    ("שלום", "cp1255"),
    ("הבה נגילה", "cp1255"),
    ("أم كلثوم", "cp1256"),
    ("فيروز", "cp1256"),
    ("راشد الماجد", "cp1256"),
]
LATIN = [
    "Café del Mar", "Ångström", "Größe", "ÄÖÜ", "ÄÖÜ äöü", "Señorita", "Sigur Rós - Ágætis byrjun", "Motörhead",
    "Beyoncé - Déjà Vu", "Où est-ce?", "ça ira", "¿Qué?", "Øl på Åland", "naïve", "Þórr", "É", "ß", "",
    "Háá", "Mañana, mañana",
]  # fmt: skip


@pytest.mark.parametrize(("title", "encoding"), FOREIGN)
def test_tag_in_another_encoding_is_repaired(title: str, encoding: str) -> None:
    assert repair(title.encode(encoding).decode("latin-1")) == title


@pytest.mark.parametrize("title", LATIN)
def test_latin_1_tag_is_left_alone(title: str) -> None:
    assert repair(title) == title


@pytest.mark.parametrize(("title", "encoding"), [("Группа крови", "cp1251"), ("月亮代表我的心", "gb18030")])
def test_song_with_a_foreign_id3_tag_has_its_title(tmp_path: Path, title: str, encoding: str) -> None:
    make_song(tmp_path / "song.mp3", seconds=0.5, container_options={"id3v2_version": "0"})
    text = b"\0" + title.encode(encoding)
    frame = b"TIT2" + len(text).to_bytes(4, "big") + b"\0\0" + text
    tag = b"ID3\x03\0\0" + bytes((0, 0, 0, len(frame))) + frame
    (tmp_path / "song.mp3").write_bytes(tag + (tmp_path / "song.mp3").read_bytes())
    assert probe(tmp_path / "song.mp3", MediaLimits()).title == title


def test_vorbis_comment_is_taken_for_utf_8(tmp_path: Path) -> None:
    title = "Ãðóïïà êðîâè"
    make_song(tmp_path / "song.ogg", seconds=0.5, tags={"title": title})
    assert probe(tmp_path / "song.ogg", MediaLimits()).title == title
