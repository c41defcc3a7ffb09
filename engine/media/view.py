"""A part of a file as FFmpeg reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO, Protocol


class Seekable(Protocol):
    """A file that can be read at any position."""

    def tell(self) -> int: ...

    def read(self, count: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...


class FileView:
    """A readable part of a file, without a name.

    FFmpeg then judges by content and cannot open other files beside it.
    """

    def __init__(self, file: BinaryIO, start: int, stop: int, patches: Mapping[int, int]) -> None:
        """`patches`: values of bytes to deliver in place of the file's, by position in the file."""
        self._file = file
        self._start, self._stop = start, stop
        self._patches = patches
        file.seek(start)

    def tell(self) -> int:
        return self._file.tell() - self._start

    def read(self, count: int = -1) -> bytes:
        at = self._file.tell()
        left = max(0, self._stop - at)
        data = self._file.read(left if count < 0 else min(count, left))
        places = [place for place in self._patches if at <= place < at + len(data)]
        if not places:
            return data
        patched = bytearray(data)
        for place in places:
            patched[place - at] = self._patches[place]
        return bytes(patched)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position; -1 if a header points outside of the file, which FFmpeg takes as a failed seek."""
        origin = {0: self._start, 1: self._file.tell(), 2: self._stop}.get(whence)
        if origin is None or origin + offset < self._start:
            return -1
        try:
            return self._file.seek(origin + offset) - self._start
        except (OSError, ValueError, OverflowError):
            return -1
