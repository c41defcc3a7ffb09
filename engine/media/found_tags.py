"""The tags found in a file, the limits on them, and the patches that hide them from FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.media.view import Seekable

MOST_TAG_BYTES = 8 * 1024 * 1024
MOST_TAGS = 2000
LARGEST_SIZE = (1 << 31) - 1
"""Of a chunk or an atom that stands in place of many."""

Patch = tuple[int, bytes]
"""A position in the file, and the bytes to read there instead."""

_BLOCK_BYTES = 1 << 20


@dataclass
class FoundTags:
    """The number of tags, the bytes of the largest, and patches: `hide` for too many tags, `always` for any number."""

    count: int = 0
    largest_bytes: int = 0
    hide: list[Patch] = field(default_factory=list)
    always: list[Patch] = field(default_factory=list)

    def add(self, count: int, size_bytes: int, *patches: Patch) -> None:
        """Add a group of tags and the patches that hide it."""
        self.count += count
        self.largest_bytes = max(self.largest_bytes, size_bytes)
        self.hide += patches

    @property
    def are_large(self) -> bool:
        return self.largest_bytes > MOST_TAG_BYTES or self.count > MOST_TAGS

    @property
    def patches(self) -> list[Patch]:
        return self.always + (self.hide if self.are_large else [])


def find_all(file: Seekable, pattern: bytes, start: int = 0) -> Iterator[int]:
    """Yield each position of `pattern` in the file from `start` on."""
    size = file.seek(0, 2)
    for at in range(start, size, _BLOCK_BYTES):
        block = read_at(file, at, _BLOCK_BYTES + len(pattern) - 1)
        found = block.find(pattern)
        while found >= 0:
            yield at + found
            found = block.find(pattern, found + 1)


def read_at(file: Seekable, position: int, count: int) -> bytes:
    """Return up to `count` bytes; none for a position outside the file, which damaged headers can state."""
    try:
        file.seek(position)
    except (OSError, ValueError, OverflowError):
        return b""
    return file.read(count)
