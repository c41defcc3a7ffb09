"""Tags over the limits are skipped, and the song is read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import InputRefused
from engine.media.decode import probe
from engine.media.large_tags import MOST_TAG_BYTES, MOST_TAGS, hide_large_tags
from engine.media.limits import MediaLimits
from engine.media.ogg_comments import _with_checksum
from engine.media.view import FileView
from tests.fixtures.songs import make_song

TITLE = {"title": "Sunny"}


def _id3(frames: int, version: int = 4, padding_bytes: int = 0) -> bytes:
    body = b"".join(
        b"TXXX" + struct.pack(">I", 9) + bytes(2) + b"\0%06x\0v" % number for number in range(frames)
    ) + bytes(padding_bytes)
    size = len(body)
    return b"ID3" + bytes([version, 0, 0, size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + body


def _id3_before(song: bytes, tags: int) -> bytes:
    return _id3(tags) + song


def _as_two_id3_tags(song: bytes, tags: int) -> bytes:
    return _id3(tags // 2) + _id3(tags - tags // 2) + song


def _old_id3(song: bytes, tags: int) -> bytes:
    return _id3(tags, version=3) + song


def _flac_comments(song: bytes, tags: int) -> bytes:
    entries = b"".join(struct.pack("<I", 8) + b"%06x=v" % number for number in range(tags))
    block = struct.pack("<II", 0, tags) + entries
    return song[:42] + b"\x04" + len(block).to_bytes(3, "big") + block + song[42:]


def _chunk_behind(head_bytes: int, name: bytes, form: str) -> Callable[[bytes, int], bytes]:
    def add_tags(song: bytes, tags: int) -> bytes:
        if name == b"LIST":
            data = b"INFO" + b"".join(b"%04x" % number + struct.pack("<I", 2) + b"v\0" for number in range(tags))
        elif name == b"info":
            data = struct.pack(">I", tags) + b"".join(b"%06x\0v\0" % number for number in range(tags))
        else:
            data = _id3(tags)
        chunk = struct.pack(form, name, len(data)) + data + bytes(len(data) & 1 if name != b"info" else 0)
        return song[:head_bytes] + chunk + song[head_bytes:]

    return add_tags


def _atom(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + name + data


def _atoms(song: bytes, tags: int) -> bytes:
    at = song.rindex(b"moov") - 4
    items = b"".join(
        _atom(
            b"----",
            _atom(b"mean", bytes(4) + b"com.apple.iTunes")
            + _atom(b"name", bytes(4) + b"%06x" % number)
            + _atom(b"data", struct.pack(">II", 1, 0) + b"v"),
        )
        for number in range(tags)
    )
    handler = _atom(b"hdlr", bytes(8) + b"mdirappl" + bytes(10))
    user_data = _atom(b"udta", _atom(b"meta", bytes(4) + handler + _atom(b"ilst", items)))
    return song[:at] + _atom(b"moov", song[at + 8 :] + user_data)


def _ogg_page(serial: int, number: int, lacing: bytes, data: bytes, flags: int = 0) -> bytes:
    head = b"OggS" + bytes([0, flags]) + bytes(8) + struct.pack("<III", serial, number, 0) + bytes([len(lacing)])
    return _with_checksum(bytearray(head + lacing + data))


def _ogg_comments(signature: bytes) -> Callable[[bytes, int], bytes]:
    """Put a packet of comments behind the first page, in place of the one that is there."""

    def add_tags(song: bytes, tags: int) -> bytes:
        first_end = song.index(b"OggS", 1)
        serial = int.from_bytes(song[14:18], "little")
        entries = b"".join(struct.pack("<I", 8) + b"%06x=v" % number for number in range(tags))
        packet = signature + struct.pack("<I", 400) + b"x" * 400 + struct.pack("<I", tags) + entries + b"\x01"
        rest = _packets_behind_comments(song, first_end)
        lacing = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        pages, number = b"", 1
        for at in range(0, len(lacing), 255):
            piece, packet = packet[: sum(lacing[at : at + 255])], packet[sum(lacing[at : at + 255]) :]
            pages += _ogg_page(serial, number, lacing[at : at + 255], piece, flags=bool(at))
            number += 1
        return song[:first_end] + pages + rest

    return add_tags


def _packets_behind_comments(song: bytes, at: int) -> bytes:
    """Return the pages from the second one on, without its first packet."""
    count = song[at + 26]
    lacing = song[at + 27 : at + 27 + count]
    end = at + 27 + count + sum(lacing)
    packet = next(number for number, length in enumerate(lacing) if length < 255) + 1
    left = song[at + 27 + count + sum(lacing[:packet]) : end]
    serial = int.from_bytes(song[at + 14 : at + 18], "little")
    return (_ogg_page(serial, 1, lacing[packet:], left) if left else b"") + song[end:]


def _element(name: bytes, data: bytes) -> bytes:
    return name + (len(data) | 1 << 56).to_bytes(8, "big") + data


def _matroska_tags(song: bytes, tags: int) -> bytes:
    """Put tags before the first cluster."""
    entries = b"".join(
        _element(b"\x67\xc8", _element(b"\x45\xa3", b"%06x" % number) + _element(b"\x44\x87", b"v"))
        for number in range(tags)
    )
    at = song.index(b"\x1f\x43\xb6\x75")
    element = _element(b"\x12\x54\xc3\x67", _element(b"\x73\x73", _element(b"\x63\xc0", b"") + entries))
    segment = song.index(b"\x18\x53\x80\x67")
    unknown_length = b"\x01" + b"\xff" * 7
    return song[: segment + 4] + unknown_length + song[segment + 12 : at] + element + song[at:]


WAYS_TO_ADD_TAGS: dict[str, tuple[str, Callable[[bytes, int], bytes], dict[str, object]]] = {
    "id3 before mp3": ("song.mp3", _id3_before, {"container": "mp3", "codec": "libmp3lame"}),
    "two id3 before mp3": ("song.mp3", _as_two_id3_tags, {"container": "mp3", "codec": "libmp3lame"}),
    "id3 2.3 before mp3": ("song.mp3", _old_id3, {"container": "mp3", "codec": "libmp3lame"}),
    "id3 before aac": ("song.aac", _id3_before, {"container": "adts", "codec": "aac"}),
    "id3 before flac": ("song.flac", _id3_before, {}),
    "comments in flac": ("song.flac", _flac_comments, {}),
    "info in wav": ("song.wav", _chunk_behind(12, b"LIST", "<4sI"), {}),
    "id3 in wav": ("song.wav", _chunk_behind(12, b"id3 ", "<4sI"), {}),
    "id3 in aiff": ("song.aiff", _chunk_behind(12, b"ID3 ", ">4sI"), {"container": "aiff", "codec": "pcm_s16be"}),
    "info in caf": ("song.caf", _chunk_behind(52, b"info", ">4sQ"), {"container": "caf", "codec": "pcm_s16be"}),
    "ilst in m4a": ("song.m4a", _atoms, {}),
    "comments in opus": ("song.opus", _ogg_comments(b"OpusTags"), {"codec": "libopus", "sample_rate": 48000}),
    "comments in vorbis": ("song.ogg", _ogg_comments(b"\x03vorbis"), {}),
    "tags in matroska": ("song.mkv", _matroska_tags, {}),
    "tags in webm": ("song.webm", _matroska_tags, {"codec": "libopus", "sample_rate": 48000}),
}


@pytest.mark.parametrize("name", WAYS_TO_ADD_TAGS)
def test_song_with_too_many_tags_is_read_without_them(tmp_path: Path, name: str) -> None:
    filename, add_tags, choices = WAYS_TO_ADD_TAGS[name]
    path = tmp_path / filename
    make_song(path, seconds=0.5, **choices)  # type: ignore[arg-type]
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


def test_small_tags_are_kept(tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=0.5, tags=TITLE)
    assert probe(tmp_path / "song.mp3", MediaLimits()).title == "Sunny"


def test_id3_tag_over_8_mb_is_skipped(tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=0.5, container_options={"write_id3v2": "0"})
    song = (tmp_path / "song.mp3").read_bytes()
    (tmp_path / "song.mp3").write_bytes(_id3(1, padding_bytes=MOST_TAG_BYTES) + song)
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
