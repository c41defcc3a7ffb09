"""Hide tags that are too large, and endless lists of chunks: FFmpeg takes time quadratic in the number of tags.

A large tag gets a name or version that FFmpeg skips; all positions in the file stay the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice

from engine.media.flac_comments import find_flac_comments
from engine.media.found_tags import LARGEST_SIZE, MOST_TAG_BYTES, MOST_TAGS, FoundTags, find_all, read_at
from engine.media.id3_frames import read_id3_tags
from engine.media.matroska_tags import find_matroska_tags
from engine.media.mp4_tags import find_mp4_tags
from engine.media.ogg_comments import hide_large_comments
from engine.media.view import Seekable

_ID3_UNKNOWN_VERSION = b"\x09"
_MOST_CHUNKS = 10_000
_W64_SUMMARY = bytes.fromhex("bc945f925a52d21186dc00c04f8edb8a")


def hide_large_tags(file: Seekable) -> dict[int, int]:
    """Return patches for `FileView` that make FFmpeg skip tags over the limits. Leaves the file at its beginning."""
    tags = FoundTags()
    _find_tags(file, tags)
    file.seek(0)
    return {at + offset: byte for at, new in tags.patches for offset, byte in enumerate(new)}


def _find_tags(file: Seekable, tags: FoundTags) -> None:
    start = _find_id3(file, tags)
    size = file.seek(0, 2)
    head = read_at(file, start, 12)
    if head[:4] == b"fLaC":
        find_flac_comments(file, start, tags)
    elif head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE":
        _find_tag_chunks(file, 12, size, "<4sI", 2, tags)
    elif (head[:4] == b"RIFX" and head[8:] == b"WAVE") or head[:4] == b"FORM":
        _find_tag_chunks(file, 12, size, ">4sI", 2, tags)
    elif head[:4] == b"caff":
        _find_tag_chunks(file, 8, size, ">4sQ", 1, tags)
    elif head[:4] == b"riff":
        _find_w64_summaries(file, tags)
    elif head[:4] == b"OggS":
        hide_large_comments(file, tags)
    elif head[:4] == b"\x1a\x45\xdf\xa3":
        find_matroska_tags(file, tags)
    else:
        find_mp4_tags(file, tags)
        _find_id3_between_frames(file, start, tags)


def _find_id3(file: Seekable, tags: FoundTags) -> int:
    """Add the ID3 tags at the start, which FFmpeg merges into one; return the position after them."""
    position = 0
    for tag in read_id3_tags(file, 0, MOST_TAGS, MOST_TAG_BYTES):
        position = tag.position + tag.length
        tags.add(tag.frames, position, (tag.position + 3, _ID3_UNKNOWN_VERSION))
    return position


def _find_id3_between_frames(file: Seekable, start: int, tags: FoundTags) -> None:
    """Add the ID3 tags that FFmpeg reads between the frames of AAC."""
    for position in find_all(file, b"ID3", start):
        if read_at(file, position + 3, 1) in (b"\x02", b"\x03", b"\x04"):
            count = 0
            if not tags.are_large:
                found = islice(read_id3_tags(file, position, MOST_TAGS, MOST_TAG_BYTES), 1)
                count = sum(tag.frames for tag in found)
            tags.add(count, 0, (position + 3, _ID3_UNKNOWN_VERSION))


def _find_tag_chunks(file: Seekable, position: int, end: int, header: str, align: int, tags: FoundTags) -> None:
    """Add the chunks of tags, and make all beyond the first `_MOST_CHUNKS` one.

    FFmpeg asks for the size of the file at each chunk of a wav file.
    """
    for number, (at, name, length) in enumerate(_chunks(file, position, end, header, align)):
        if number == _MOST_CHUNKS:
            tags.always.append((at, struct.pack(header, b"JUNK", min(end - at, LARGEST_SIZE))))
            break
        content_at = at + struct.calcsize(header)
        if name in (b"id3 ", b"ID3 "):
            found = list(read_id3_tags(file, content_at, MOST_TAGS, MOST_TAG_BYTES))  # they can exceed the chunk
            size_bytes = max(length, sum(tag.length for tag in found))
            tags.add(sum(tag.frames for tag in found), size_bytes, (at, b"JUNK"))
        elif name in (b"LIST", b"info"):
            entries = read_at(file, content_at, length) if length <= MOST_TAG_BYTES else b""
            count = entries.count(b"\0") // 2 if name == b"info" else _count_entries(entries)
            tags.add(count, length, (at, b"JUNK"))


def _chunks(file: Seekable, position: int, end: int, header: str, align: int) -> Iterator[tuple[int, bytes, int]]:
    while position < end:
        head = read_at(file, position, struct.calcsize(header))
        if len(head) < struct.calcsize(header):
            return
        name, length = struct.unpack(header, head)
        yield position, name, length
        position += len(head) + -(-length // align) * align


def _count_entries(info: bytes) -> int:
    """Count the entries of a list of wav, whose odd lengths may be padded or not, up to one over the limit."""
    position, count = 4, 0
    while position + 8 <= len(info) and count <= MOST_TAGS:
        length = int.from_bytes(info[position + 4 : position + 8], "little")
        if position + 8 + length > len(info):
            position -= 1
            length = int.from_bytes(info[position + 4 : position + 8], "little")
            if position + 8 + length > len(info):
                break
        position += 8 + length + (length & 1)
        count += 1
    return count


def _find_w64_summaries(file: Seekable, tags: FoundTags) -> None:
    for position in find_all(file, _W64_SUMMARY):
        head = read_at(file, position + len(_W64_SUMMARY), 12)
        length, stated = struct.unpack_from("<QI", head.ljust(12, b"\0"))
        tags.add(stated, min(length, file.seek(0, 2)), (position, bytes(len(_W64_SUMMARY))))
