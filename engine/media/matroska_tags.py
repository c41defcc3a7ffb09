"""Elements of Matroska and WebM that are costly to parse: tags, chapters, comments in the header of FLAC.

Elements: RFC 8794 and RFC 9559.
"""

from __future__ import annotations

from engine.media.flac_comments import find_flac_comments
from engine.media.found_tags import MOST_TAG_BYTES, MOST_TAGS, FoundTags, find_all, read_at
from engine.media.view import Seekable

_TAGS, _SIMPLE_TAG = b"\x12\x54\xc3\x67", b"\x67\xc8"
_CHAPTERS, _CHAPTER = b"\x10\x43\xa7\x70", b"\xb6"
_UNKNOWN = b"\x66"  # in place of an ID's last byte
_CODEC_PRIVATE = b"\x63\xa2"
_LONGEST_SIZE_BYTES = 8


def find_matroska_tags(file: Seekable, tags: FoundTags) -> None:
    """Add the elements of tags and chapters at any position: an index can point FFmpeg to any place."""
    size = file.seek(0, 2)
    for element, entry in ((_TAGS, _SIMPLE_TAG), (_CHAPTERS, _CHAPTER)):
        for position in find_all(file, element):
            length, content_at = _read_size(file, position + len(element))
            fits = content_at + length <= size
            content = b"" if tags.count > MOST_TAGS else read_at(file, content_at, min(length, MOST_TAG_BYTES))
            tags.add(content.count(entry), length if fits else 0, (position + len(element) - 1, _UNKNOWN))
    for position in find_all(file, b"fLaC"):
        if _CODEC_PRIVATE in read_at(file, position - len(_CODEC_PRIVATE) - _LONGEST_SIZE_BYTES, 10):
            find_flac_comments(file, position, tags)


def _read_size(file: Seekable, position: int) -> tuple[int, int]:
    """Return the length of an element (RFC 8794, section 4) and the position of its content."""
    head = read_at(file, position, _LONGEST_SIZE_BYTES)
    size_bytes = 9 - head[0].bit_length() if head and head[0] else _LONGEST_SIZE_BYTES
    return int.from_bytes(head[:size_bytes], "big") & ((1 << 7 * size_bytes) - 1), position + size_bytes
