"""Tags over the limits are skipped, and the song is read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import BrokenAudio, InputRefused
from engine.media.decode import probe
from engine.media.found_tags import MOST_TAG_BYTES, MOST_TAGS
from engine.media.large_tags import hide_large_tags
from engine.media.limits import MediaLimits
from engine.media.view import FileView
from tests.fixtures.songs import make_song
from tests.fixtures.tags import chunks, id3, matroska, mp4, ogg

TITLE = {"title": "Sunny"}
MP3: dict[str, object] = {"container": "mp3", "codec": "libmp3lame"}
AAC: dict[str, object] = {"container": "adts", "codec": "aac"}
OPUS: dict[str, object] = {"codec": "libopus", "sample_rate": 48000}
WAYS_TO_ADD_TAGS: dict[str, tuple[str, Callable[[bytes, int], bytes], dict[str, object]]] = {
    "id3 before mp3": ("song.mp3", id3.id3_before, MP3),
    "two id3 before mp3": ("song.mp3", id3.two_id3_tags, MP3),
    "id3 2.3 before mp3": ("song.mp3", id3.old_id3, MP3),
    "id3 with extended header": ("song.mp3", id3.extended_header, MP3),
    "id3 with plain sizes": ("song.mp3", id3.plain_sizes, MP3),
    "id3 frames of a chapter": ("song.mp3", id3.frames_of_chapter, MP3),
    "id3 before aac": ("song.aac", id3.id3_before, AAC),
    "id3 between aac frames": ("song.aac", id3.id3_between_aac_frames, AAC),
    "id3 before flac": ("song.flac", id3.id3_before, {}),
    "comments in flac": ("song.flac", chunks.flac_comments, {}),
    "info in wav": ("song.wav", chunks.chunk_behind(12, b"LIST", "<4sI"), {}),
    "unpadded info in wav": ("song.wav", chunks.unpadded_entries, {}),
    "id3 in wav": ("song.wav", chunks.chunk_behind(12, b"id3 ", "<4sI"), {}),
    "id3 in aiff": (
        "song.aiff",
        chunks.chunk_behind(12, b"ID3 ", ">4sI"),
        {"container": "aiff", "codec": "pcm_s16be"},
    ),
    "info in caf": ("song.caf", chunks.chunk_behind(52, b"info", ">4sQ"), {"container": "caf", "codec": "pcm_s16be"}),
    "info in big-endian wav": ("song.wav", chunks.big_endian, {}),
    "info in bw64": ("song.wav", chunks.bw64, {}),
    "summary in w64": ("song.w64", chunks.w64_summary, {"container": "w64", "codec": "pcm_s16le"}),
    "ilst in m4a": ("song.m4a", mp4.items, {}),
    "texts in m4a": ("song.m4a", mp4.texts(b"moov"), {}),
    "texts in several udta": ("song.m4a", mp4.texts(b"moov", 3), {}),
    "texts in mdia": ("song.m4a", mp4.texts(b"mdia"), {}),
    "texts in tref": ("song.m4a", mp4.texts(b"tref"), {}),
    "texts in sinf": ("song.m4a", mp4.texts(b"sinf"), {}),
    "texts to the end": ("song.m4a", mp4.texts_to_the_end, {}),
    "texts in a free header": ("song.m4a", mp4.texts_in_free_header, {}),
    "texts in a sample entry": ("song.m4a", mp4.texts_in_sample_entry, {}),
    "comments in opus": ("song.opus", ogg.comments(b"OpusTags"), OPUS),
    "comments of several streams": ("song.opus", ogg.comments_of_several_streams, OPUS),
    "comments in vorbis": ("song.ogg", ogg.comments(b"\x03vorbis"), {}),
    "comments amid vorbis": ("song.ogg", ogg.comments_in_the_middle, {"seconds": 5}),
    "tags in matroska": ("song.mkv", matroska.tags_before_clusters, {}),
    "tags behind an index": ("song.mkv", matroska.tags_behind_index, {}),
    "chapters in matroska": ("song.mkv", matroska.chapters, {}),
    "flac header in matroska": ("song.mkv", matroska.comments_in_flac_header, {}),
    "tags in webm": ("song.webm", matroska.tags_before_clusters, OPUS),
}


@pytest.mark.parametrize("name", WAYS_TO_ADD_TAGS)
def test_song_with_too_many_tags_is_read_without_them(tmp_path: Path, name: str) -> None:
    filename, add_tags, choices = WAYS_TO_ADD_TAGS[name]
    path = tmp_path / filename
    make_song(path, **{"seconds": 0.5, **choices})  # type: ignore[arg-type]
    song = path.read_bytes()
    samples = probe(path, MediaLimits()).samples
    path.write_bytes(add_tags(song, MOST_TAGS // 2))
    with path.open("rb") as file:
        assert not hide_large_tags(file)
    path.write_bytes(add_tags(song, MOST_TAGS + 1))
    with path.open("rb") as file:
        assert hide_large_tags(file)
    found = probe(path, MediaLimits())
    assert found.samples == samples
    assert found.title is None


def test_compressed_header_of_quicktime_is_refused(tmp_path: Path) -> None:
    make_song(tmp_path / "song.m4a", seconds=0.5)
    song = (tmp_path / "song.m4a").read_bytes()
    (tmp_path / "song.m4a").write_bytes(mp4.texts_in_compressed_header(song, 1))
    with pytest.raises(BrokenAudio):
        probe(tmp_path / "song.m4a", MediaLimits())


def test_small_tags_with_large_padding_are_kept(tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=0.5, container_options={"write_id3v2": "0"})
    song = (tmp_path / "song.mp3").read_bytes()
    (tmp_path / "song.mp3").write_bytes(id3.id3_tag(1, padding_bytes=MOST_TAG_BYTES // 2) + song)
    with (tmp_path / "song.mp3").open("rb") as file:
        assert not hide_large_tags(file)


def test_small_tags_are_kept(tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=0.5, tags=TITLE)
    assert probe(tmp_path / "song.mp3", MediaLimits()).title == "Sunny"


def test_id3_tag_over_8_mb_is_skipped(tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=0.5, container_options={"write_id3v2": "0"})
    song = (tmp_path / "song.mp3").read_bytes()
    (tmp_path / "song.mp3").write_bytes(id3.id3_tag(1, padding_bytes=MOST_TAG_BYTES) + song)
    with (tmp_path / "song.mp3").open("rb") as file:
        assert hide_large_tags(file)[3] == 9
    assert probe(tmp_path / "song.mp3", MediaLimits()).codec in ("mp3", "mp3float")


CAF = b"caff" + bytes(4)
IMPOSSIBLE = {
    "caf chunk beyond any file": CAF + struct.pack(">4sQ", b"data", 2**63 - 64) + bytes(64),
    "caf chunk beyond 64 bits": CAF + struct.pack(">4sQ", b"data", 2**64 - 1) + bytes(64),
    "atom beyond any file": struct.pack(">I4sQ", 1, b"mdat", 2**62) + bytes(64),
    "atom beyond 64 bits": struct.pack(">I4sQ", 1, b"moov", 2**64 - 1) + bytes(64),
    "atoms in one another": b"".join(struct.pack(">I4s", 8 * left, b"moov") for left in range(20_000, 0, -1)),
    "id3 beyond the file": b"ID3\x04\0\0\xff\xff\xff\xff" + bytes(64),
    "flac block beyond the file": b"fLaC\x04\xff\xff\xff" + bytes(4),
    "flac comments beyond the file": b"fLaC\x84\0\0\x10\xff\xff\xff\xff" + bytes(16),
    "riff chunk beyond the file": b"RIFF\xff\xff\xff\xffWAVELIST\xff\xff\xff\xff" + bytes(64),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_position_ends_search_for_tags(tmp_path: Path, name: str) -> None:
    path = tmp_path / "song"
    path.write_bytes(IMPOSSIBLE[name])
    with path.open("rb") as file:
        hide_large_tags(file)
        assert file.tell() == 0
    with pytest.raises(InputRefused):
        probe(path, MediaLimits())


@pytest.mark.parametrize(
    ("name", "chunk", "most"), [("song.wav", b"junk" + bytes(4), 10_000), ("song.m4a", b"\0\0\0\x08free", 100_000)]
)
def test_endless_chunks_after_song_are_not_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, chunk: bytes, most: int
) -> None:
    make_song(tmp_path / name, seconds=1)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + chunk * (4 * most))
    seek, seeks = FileView.seek, 0

    def counting_seek(view: FileView, offset: int, whence: int = 0) -> int:
        nonlocal seeks
        seeks += 1
        return seek(view, offset, whence)

    monkeypatch.setattr(FileView, "seek", counting_seek)
    assert probe(tmp_path / name, MediaLimits()).duration_s == pytest.approx(1, abs=0.05)
    assert seeks < 6 * most
