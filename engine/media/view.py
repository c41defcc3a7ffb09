"""Part of a file, presented to FFmpeg as a whole one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import BinaryIO, Protocol


class Seekable(Protocol):
    """A file with random access."""

    def tell(self) -> int: ...

    def read(self, count: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...


class FileView:
    """A readable part of a file without a name, so FFmpeg decides by content and cannot open neighbouring files."""

    def __init__(self, file: BinaryIO, start: int, stop: int, patches: Mapping[int, int]) -> None:
        """Show `start` to `stop` of `file`, with `patches` (position in the file: byte value) applied."""
        self._file = file
        self._start, self._stop = start, stop
        self._patches = patches
        self._patched_positions = sorted(patches)
        file.seek(start)

    def tell(self) -> int:
        return self._file.tell() - self._start

    def read(self, count: int = -1) -> bytes:
        at = self._file.tell()
        left = max(0, self._stop - at)
        data = self._file.read(left if count < 0 else min(count, left))
        first = bisect_left(self._patched_positions, at)
        patched_positions = self._patched_positions[first : bisect_left(self._patched_positions, at + len(data))]
        if not patched_positions:
            return data
        patched = bytearray(data)
        for position in patched_positions:
            patched[position - at] = self._patches[position]
        return bytes(patched)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position; return -1 (FFmpeg: the seek failed) for a position that no file has."""
        origin = {0: self._start, 1: self._file.tell(), 2: self._stop}.get(whence)
        if origin is None or origin + offset < self._start:
            return -1
        try:
            return self._file.seek(origin + offset) - self._start
        except (OSError, ValueError, OverflowError):
            return -1
