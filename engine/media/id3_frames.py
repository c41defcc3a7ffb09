"""Count the frames of ID3v2 tags as FFmpeg reads them, without parsing them.

ID3 2.3 and 2.4: https://id3.org/id3v2.4.0-structure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.media.found_tags import read_at
from engine.media.view import Seekable

_HEADER_BYTES = 10
_EXTENDED_HEADER, _FOOTER, _UNSYNCHRONISED = 0x40, 0x10, 0x80
_FRAME_COMPRESSED, _FRAME_UNSYNCHRONISED = 0x08, 0x02
_CHAPTER_TIMES_BYTES = 16


@dataclass(frozen=True)
class Id3Tag:
    """A tag in a file: its position and length with header and footer, and its frames, at most one over `most`."""

    position: int
    length: int
    frames: int


def read_id3_tags(file: Seekable, position: int, most: int, most_bytes: int) -> Iterator[Id3Tag]:
    """Yield the tags that follow one another from `position` on, which FFmpeg merges into one.

    Frames beyond `most`, and those of a tag longer than `most_bytes`, are not counted.
    """
    count = 0
    while True:
        head = read_at(file, position, _HEADER_BYTES)
        if head[:3] != b"ID3" or len(head) < _HEADER_BYTES or max(head[6:]) > 127:
            return
        size = _syncsafe(head[6:])
        frames = 0
        if size <= most_bytes and count <= most:
            frames = _count_frames(head, file.read(size), most)
            count += frames
        length = _HEADER_BYTES + size + (_HEADER_BYTES if head[5] & _FOOTER else 0)
        yield Id3Tag(position, length, frames)
        position += length


def _count_frames(head: bytes, frames: bytes, most: int) -> int:
    """Count frames, and those inside of chapters, up to one over `most`."""
    version, flags = head[3], head[5]
    name_bytes, header_bytes = (3, 6) if version == 2 else (4, 10)
    position = count = 0
    if flags & _EXTENDED_HEADER and version > 2:
        position = 4 + _syncsafe(frames[:4]) - (4 if version == 4 else 0)
    while position + header_bytes <= len(frames) and frames[position] and count <= most:
        stated = frames[position + name_bytes : position + 2 * name_bytes]
        size = _frame_bytes(frames, position) if version == 4 else int.from_bytes(stated, "big")
        content_at = position + header_bytes
        count += 1
        if frames[position : position + 4] == b"CHAP" and version > 2:
            is_plain = not flags & _UNSYNCHRONISED and not frames[position + 9] & (
                _FRAME_COMPRESSED | _FRAME_UNSYNCHRONISED
            )
            chapter = frames[content_at : content_at + size]
            count += _count_frames_of_chapter(chapter) if is_plain else len(chapter)
        position = content_at + size
    return min(count, most + 1)


def _frame_bytes(frames: bytes, position: int) -> int:
    """Return the length of a frame of ID3 2.4, whose writers do not agree on how to state it."""
    stated = frames[position + 4 : position + 8]
    plain, syncsafe = int.from_bytes(stated, "big"), _syncsafe(stated)
    content_at = position + _HEADER_BYTES
    if plain >= len(frames) - content_at or _begins_frame(frames, content_at + syncsafe):
        return syncsafe
    return plain


def _begins_frame(frames: bytes, position: int) -> bool:
    """Return whether a frame, the padding or the end of the tag may follow at a position."""
    name = frames[position : position + 4]
    return not name.strip(b"\0") or (name.isascii() and name.decode().isalnum() and name == name.upper())


def _count_frames_of_chapter(chapter: bytes) -> int:
    position = chapter.find(b"\0") + 1 + _CHAPTER_TIMES_BYTES
    count = 0
    while position + _HEADER_BYTES <= len(chapter):
        position += _HEADER_BYTES + int.from_bytes(chapter[position + 4 : position + 8], "big")
        count += 1
    return count


def _syncsafe(size: bytes) -> int:
    """Return a number of 4 bytes with 7 bits each."""
    return (size[0] & 127) << 21 | (size[1] & 127) << 14 | (size[2] & 127) << 7 | size[3] & 127
