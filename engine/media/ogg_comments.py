"""Comments in Ogg that are too large to parse: find them, and patch them to look empty.

Pages: RFC 3533. Comments: https://xiph.org/vorbis/doc/v-comment.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.media.found_tags import FoundTags
from engine.media.view import Seekable

_BEGINS_STREAM = 2
_SIGNATURES = (b"\x03vorbis", b"OpusTags", b"\x81theora", b"OVP80\x02 ")
_FLAC, _SPEEX = b"\x7fFLAC", b"Speex   "
_FLAC_COMMENTS = 4
_CHECKSUM = slice(22, 26)
_EMPTY = bytes(8)  # a vendor string of no bytes, and no comments


@dataclass
class _Page:
    at: int
    flags: int
    serial: int
    lacing: bytes

    @property
    def payload_at(self) -> int:
        return self.at + 27 + len(self.lacing)

    @property
    def end(self) -> int:
        return self.payload_at + sum(self.lacing)


@dataclass
class _Stream:
    """The header packets of one logical stream."""

    packets: int = 0
    codec: bytes = b""  # the first bytes of the first packet
    first_page: _Page | None = None  # of the packet that is being read
    pieces: list[tuple[int, int]] = field(default_factory=list)  # position and length in the file


def hide_large_comments(file: Seekable, tags: FoundTags) -> None:
    """Add the comments of all streams; those from which on the tags are too large are patched to look empty."""
    changed: dict[int, bytearray] = {}  # pages by position
    for page, pieces, start in _comments(file):
        tags.add(*_count_and_size(file, pieces, start))
        if tags.are_large:
            position = pieces[0][0] + start
            if page.at not in changed:
                changed[page.at] = bytearray(_read_page(file, page))
            data, offset = changed[page.at], position - page.at
            data[offset : offset + len(_EMPTY)] = _EMPTY
            tags.always.append((position, _EMPTY))
    tags.always += [(at + _CHECKSUM.start, _with_checksum(data)[_CHECKSUM]) for at, data in changed.items()]


def _comments(file: Seekable) -> Iterator[tuple[_Page, list[tuple[int, int]], int]]:
    """Yield the first page and the pieces of each packet of comments, and where in it they start."""
    streams: dict[int, _Stream] = {}
    for page in _pages(file):
        if page.flags & _BEGINS_STREAM:
            streams[page.serial] = _Stream()
        stream = streams.get(page.serial)
        if stream is None:
            continue
        at = page.payload_at
        for length in page.lacing:
            if stream.first_page is None:
                stream.first_page, stream.pieces = page, []
            stream.pieces.append((at, length))
            at += length
            if length < 255:
                start = _comments_start(file, stream)
                if start is not None:
                    yield stream.first_page, stream.pieces, start
                stream.packets += 1
                stream.first_page = None


def _pages(file: Seekable) -> Iterator[_Page]:
    size = file.seek(0, 2)
    at = 0
    while at + 27 <= size:
        file.seek(at)
        header = file.read(27 + 255)
        if header[:4] != b"OggS":
            if (found := header.find(b"OggS", 1)) < 0:
                found = len(header) - 3
            at += found
            continue
        lacing = header[27 : 27 + header[26]]
        page = _Page(at, header[5], int.from_bytes(header[14:18], "little"), lacing)
        yield page
        at = page.end


def _comments_start(file: Seekable, stream: _Stream) -> int | None:
    """Return the offset of the vendor string's length in the packet; None if the packet has no comments."""
    at, length = stream.pieces[0]
    file.seek(at)
    head = file.read(min(length, 8))
    if stream.packets == 0:
        stream.codec = head
        return None
    start = next((len(signature) for signature in _SIGNATURES if head.startswith(signature)), None)
    if stream.codec.startswith(_FLAC) and head[:1] and head[0] & 127 == _FLAC_COMMENTS:
        start = 4
    if stream.codec == _SPEEX and stream.packets == 1:
        start = 0
    return start if start is not None and start + len(_EMPTY) <= length else None


def _count_and_size(file: Seekable, pieces: list[tuple[int, int]], start: int) -> tuple[int, int]:
    """Return the stated number of comments of a packet, and its bytes."""
    size = sum(length for _, length in pieces)
    vendor_bytes = int.from_bytes(_read(file, pieces, start, 4), "little")
    return int.from_bytes(_read(file, pieces, start + 4 + vendor_bytes, 4), "little"), size


def _read(file: Seekable, pieces: list[tuple[int, int]], offset: int, count: int) -> bytes:
    """Read from a packet that lies in several pieces."""
    data = b""
    for at, length in pieces:
        if offset < length and len(data) < count:
            file.seek(at + offset)
            data += file.read(min(count - len(data), length - offset))
        offset = max(0, offset - length)
    return data


def _read_page(file: Seekable, page: _Page) -> bytes:
    file.seek(page.at)
    return file.read(page.end - page.at)


def _with_checksum(page: bytearray) -> bytes:
    page[_CHECKSUM] = bytes(4)
    checksum = 0
    for byte in page:
        checksum = (checksum << 8) & 0xFFFFFFFF ^ _CRC_TABLE[(checksum >> 24) ^ byte]
    page[_CHECKSUM] = checksum.to_bytes(4, "little")
    return bytes(page)


def _crc_of(byte: int) -> int:
    value = byte << 24
    for _ in range(8):
        value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
    return value & 0xFFFFFFFF


_CRC_TABLE = tuple(_crc_of(byte) for byte in range(256))
