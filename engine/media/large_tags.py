"""Hide tags that are too large, and endless lists of chunks: FFmpeg takes time quadratic in the number of tags.

A large tag gets a name or version that FFmpeg skips; all positions in the file stay the same.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from engine.media.ogg_comments import hide_large_comments

MOST_TAG_BYTES = 8 * 1024 * 1024
MOST_TAGS = 2000

_ID3_UNKNOWN_VERSION = b"\x09"
_FLAC_COMMENTS, _FLAC_PADDING = 4, 1
_MOST_CHUNKS = 10_000
_MOST_ATOMS = 100_000  # a fragmented mp4 has two for each fragment
_MOST_CLUSTERS = 100_000  # and the blocks of clusters without a length
_LARGEST_SIZE = (1 << 31) - 1
_EBML, _SEGMENT, _TAGS, _SIMPLE_TAG = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x12\x54\xc3\x67", b"\x67\xc8"
_CLUSTER = b"\x1f\x43\xb6\x75"
_UNKNOWN_ELEMENT = b"\x12\x54\xc3\x66"
_DEEPEST_ATOM = 8  # moov and trak make two; only damaged files have more

Patch = tuple[int, bytes]
"""A position in the file, and the bytes to read there instead."""


def hide_large_tags(file: BinaryIO) -> dict[int, int]:
    """Return patches for `FileView` that make FFmpeg skip tags over the limits. Leaves the file at its beginning."""
    patches = _find_large_tags(file)
    file.seek(0)
    return {at + offset: byte for at, new in patches for offset, byte in enumerate(new)}


def _find_large_tags(file: BinaryIO) -> list[Patch]:
    size = os.fstat(file.fileno()).st_size
    patches, start = _hide_id3(file)
    head = _read(file, start, 12)
    if head[:4] == b"fLaC":
        patches += _hide_flac_comments(file, start + 4)
    elif head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        patches += _hide_chunks(file, 12, size, "<4sI", 2)
    elif head[:4] == b"FORM":
        patches += _hide_chunks(file, 12, size, ">4sI", 2)
    elif head[:4] == b"caff":
        patches += _hide_chunks(file, 8, size, ">4sQ", 1)
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"free"):
        patches += _hide_atoms(file, 0, size)
    elif head[:4] == b"OggS":
        patches += hide_large_comments(file, lambda size, tags: size > MOST_TAG_BYTES or tags > MOST_TAGS)
    elif head[:4] == _EBML:
        patches += _hide_matroska_tags(file, size)
    return patches


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    """Return up to `count` bytes; none for a position outside the file, which damaged headers can state."""
    if not 0 <= position < os.fstat(file.fileno()).st_size:
        return b""
    file.seek(position)
    return file.read(count)


def _hide_id3(file: BinaryIO) -> tuple[list[Patch], int]:
    """Return patches for the ID3v2 tags at the start, which FFmpeg merges into one, and the position after them."""
    tags: list[int] = []
    start = frames = 0
    while (head := _read(file, start, 10))[:3] == b"ID3" and len(head) == 10:
        tags.append(start)
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        if frames <= MOST_TAGS and size <= MOST_TAG_BYTES:
            frames += _count_id3_frames(head + _read(file, start + 10, size))
        start += 10 + size + (10 if head[5] & 0x10 else 0)
    is_large = start > MOST_TAG_BYTES or frames > MOST_TAGS
    return [(tag + 3, _ID3_UNKNOWN_VERSION) for tag in tags if is_large], start


def _count_id3_frames(tag: bytes) -> int:
    """Count at least as many frames as FFmpeg reads, up to one over the limit."""
    header, size_bytes = (6, 3) if tag[3] == 2 else (10, 4)
    position, frames = 10, 0
    while position + header <= len(tag) and frames <= MOST_TAGS:
        size = tag[position + size_bytes : position + 2 * size_bytes]
        frames += 1
        plain = int.from_bytes(size, "big")
        position += header + (plain if tag[3] < 4 or any(byte > 127 for byte in size) else _syncsafe(size))
    return frames


def _syncsafe(size: bytes) -> int:
    return size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]


def _hide_flac_comments(file: BinaryIO, position: int) -> list[Patch]:
    patches: list[Patch] = []
    size = count = 0
    for _ in range(_MOST_CHUNKS):
        head = _read(file, position, 4)
        if len(head) < 4:
            break
        length = int.from_bytes(head[1:], "big")
        if head[0] & 127 == _FLAC_COMMENTS:
            patches.append((position, bytes([head[0] & 128 | _FLAC_PADDING])))
            size += length
            count += _count_comments(file, position + 4)
        position += 4 + length
        if head[0] & 128:
            break
    return patches if size > MOST_TAG_BYTES or count > MOST_TAGS else []


def _count_comments(file: BinaryIO, position: int) -> int:
    """Return the stated number of entries of a Vorbis comment block."""
    vendor_bytes = int.from_bytes(_read(file, position, 4), "little")
    return int.from_bytes(_read(file, position + 4 + vendor_bytes, 4), "little")


def _hide_chunks(file: BinaryIO, position: int, end: int, header: str, align: int) -> list[Patch]:
    """Return patches that rename all tag chunks if together they exceed the limits.

    Chunks beyond the first `_MOST_CHUNKS` become one. FFmpeg asks for the size of the file at each chunk of a wav file.
    """
    patches: list[Patch] = []
    rest: list[Patch] = []
    size = count = 0
    for number, (at, name, length) in enumerate(_chunks(file, position, end, header, align)):
        if number == _MOST_CHUNKS:
            rest.append((at, struct.pack(header, b"JUNK", min(end - at, _LARGEST_SIZE))))
            break
        if name in (b"LIST", b"id3 ", b"ID3 ", b"info"):
            patches.append((at, b"JUNK"))
            size += length
            if length <= MOST_TAG_BYTES:
                count += _count_entries(name, _read(file, at + struct.calcsize(header), length))
    return rest + (patches if size > MOST_TAG_BYTES or count > MOST_TAGS else [])


def _chunks(file: BinaryIO, position: int, end: int, header: str, align: int) -> Iterator[tuple[int, bytes, int]]:
    while position < end:
        head = _read(file, position, struct.calcsize(header))
        if len(head) < struct.calcsize(header):
            return
        name, length = struct.unpack(header, head)
        yield position, name, length
        position += len(head) + -(-length // align) * align


def _hide_atoms(file: BinaryIO, position: int, end: int, depth: int = 0) -> list[Patch]:
    """Return patches that rename an mp4's tag atoms over the limits, and make all beyond `_MOST_ATOMS` one atom."""
    patches: list[Patch] = []
    for number in itertools.count():
        head = _read(file, position, 16)
        if position >= end or len(head) < 8:
            break
        if number == _MOST_ATOMS:
            patches.append((position, struct.pack(">I4s", min(end - position, _LARGEST_SIZE), b"free")))
            break
        length, name, header_bytes = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, header_bytes = int.from_bytes(head[8:], "big"), 16
        if length < header_bytes:
            break
        if name in (b"moov", b"trak") and depth < _DEEPEST_ATOM:
            patches += _hide_atoms(file, position + header_bytes, min(end, position + length), depth + 1)
        elif name in (b"udta", b"meta") and (
            length > MOST_TAG_BYTES or _read(file, position, length).count(b"data") > MOST_TAGS
        ):
            patches.append((position + 4, b"free"))
        position += length
    return patches


def _hide_matroska_tags(file: BinaryIO, end: int) -> list[Patch]:
    """Rename the elements of tags in a Matroska or WebM file if together they are over the limits."""
    found: list[Patch] = []
    position = size = count = 0
    for _ in range(_MOST_CLUSTERS):
        head = _read(file, position, 12)
        if position >= end or len(head) < 2:
            break
        id_bytes, length_bytes = _vint_bytes(head[0]), _vint_bytes(head[min(_vint_bytes(head[0]), len(head) - 1)])
        name = head[:id_bytes]
        stated = head[id_bytes : id_bytes + length_bytes]
        length = int.from_bytes(stated, "big") & ((1 << 7 * length_bytes) - 1)
        position += id_bytes + length_bytes
        if name == _TAGS:
            found.append((position - id_bytes - length_bytes, _UNKNOWN_ELEMENT))
            size += length
            if length <= MOST_TAG_BYTES:
                count += _read(file, position, length).count(_SIMPLE_TAG)
        is_unknown_length = length == (1 << 7 * length_bytes) - 1
        if name != _SEGMENT and not (name == _CLUSTER and is_unknown_length):
            position += length
    return found if size > MOST_TAG_BYTES or count > MOST_TAGS else []


def _vint_bytes(first: int) -> int:
    """Return the length of an EBML number, from its first byte (RFC 8794, section 4)."""
    return 9 - first.bit_length() if first else 8


def _count_entries(name: bytes, data: bytes) -> int:
    if name == b"info":
        return data.count(b"\0") // 2
    if name != b"LIST":
        return _count_id3_frames(data) if len(data) > 10 else 0
    position, count = 4, 0
    while position + 8 <= len(data) and count <= MOST_TAGS:
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + length + (length & 1)
        count += 1
    return count
