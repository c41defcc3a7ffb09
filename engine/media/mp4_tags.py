"""Atoms of MP4 and QuickTime that are costly to parse: tags, compressed headers, endless lists.

Atoms: ISO/IEC 14496-12, section 4.2, and Apple's QuickTime File Format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from engine.media.found_tags import LARGEST_SIZE, MOST_TAGS, FoundTags, find_all, read_at
from engine.media.view import Seekable

_SKIPPED = b"skip"
_MOST_ATOMS = 100_000  # a fragmented mp4 has two for each fragment
_DEEPEST = 10  # FFmpeg reads no deeper
_HEADER_BYTES, _LONG_HEADER_BYTES = 8, 16


def find_mp4_tags(file: Seekable, tags: FoundTags) -> None:
    """Add all atoms of tags, at any depth, since FFmpeg reads them inside of many others; join endless atoms."""
    size = file.seek(0, 2)
    for name in (b"udta", b"ilst"):
        for name_at in find_all(file, name):
            length, _, content_at = _read_header(file, name_at - 4)
            end = min(size, name_at - 4 + (length or size))
            fits = 0 < length <= size - name_at + 4
            count = 0 if tags.count > MOST_TAGS else _count_atoms(file, content_at, end)
            tags.add(count, length if fits else 0, (name_at, _SKIPPED))
    for name_at in find_all(file, b"cmov"):  # a compressed header of QuickTime until 2002, which can hide tags
        if read_at(file, name_at + 8, 4) == b"dcom":
            tags.always.append((name_at, _SKIPPED))
    _join_endless_atoms(file, tags)


def _count_atoms(file: Seekable, position: int, end: int) -> int:
    """Count the atoms between two positions, up to one over the limit."""
    count = 0
    for _ in _atoms(file, position, end):
        count += 1
        if count > MOST_TAGS:
            break
    return count


def _join_endless_atoms(file: Seekable, tags: FoundTags) -> None:
    """Make one atom of all beyond `_MOST_ATOMS`."""
    read = 0

    def walk(start: int, end: int, depth: int) -> None:
        nonlocal read
        for position, length, name, content_at in _atoms(file, start, end):
            read += 1
            if read > _MOST_ATOMS:
                joined = struct.pack(">I4s", min(end - position, LARGEST_SIZE), _SKIPPED)
                tags.always.append((position, joined))
                return
            if name in (b"moov", b"trak", b"moof", b"traf") and depth < _DEEPEST:
                walk(content_at, position + length, depth + 1)

    walk(0, file.seek(0, 2), 0)


def _atoms(file: Seekable, position: int, end: int) -> Iterator[tuple[int, int, bytes, int]]:
    """Yield position, length, name and position of the content of each atom, as FFmpeg reads them."""
    while position + _HEADER_BYTES <= end:
        length, name, content_at = _read_header(file, position)
        length = min(length or end, end - position)
        if length < content_at - position:
            return
        yield position, length, name, content_at
        position += length


def _read_header(file: Seekable, position: int) -> tuple[int, bytes, int]:
    """Return the stated length of an atom, 0 for the rest of the file, its name and the position of its content."""
    head = read_at(file, position, _LONG_HEADER_BYTES)
    length, name = int.from_bytes(head[:4], "big"), head[4:8]
    if length == 1:
        return int.from_bytes(head[8:], "big"), name, position + _LONG_HEADER_BYTES
    return length, name, position + _HEADER_BYTES
