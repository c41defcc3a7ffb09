"""The comments in the header of a FLAC stream (RFC 9639, section 8.6)."""

from __future__ import annotations

from engine.media.found_tags import FoundTags, read_at
from engine.media.view import Seekable

_COMMENTS, _PADDING = 4, 1
_IS_LAST = 128
_MOST_BLOCKS = 10_000


def find_flac_comments(file: Seekable, position: int, tags: FoundTags) -> None:
    """Add the comments of a stream whose signature is at `position`; end its header at the last block looked at."""
    position += 4
    for number in range(_MOST_BLOCKS):
        head = read_at(file, position, 4)
        if len(head) < 4:
            return
        kind, length = head[0] & ~_IS_LAST, int.from_bytes(head[1:], "big")
        if kind == _COMMENTS:
            count = _stated_comments(file, position + 4)
            tags.add(count, length, (position, bytes([head[0] & _IS_LAST | _PADDING])))
        if head[0] & _IS_LAST:
            return
        if number == _MOST_BLOCKS - 1:
            tags.always.append((position, bytes([_IS_LAST | _PADDING])))
        position += 4 + length


def _stated_comments(file: Seekable, position: int) -> int:
    """Return the stated number of entries of a Vorbis comment block."""
    vendor_bytes = int.from_bytes(read_at(file, position, 4), "little")
    return int.from_bytes(read_at(file, position + 4 + vendor_bytes, 4), "little")
