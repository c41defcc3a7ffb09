"""Pages of Ogg files: links of a chain, the granule of the first page, a truncated last page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.media.view import Seekable

_HEADER_BYTES = 27 + 255
_LONGEST_PAGE_BYTES = _HEADER_BYTES + 255 * 255
_BEGINS_STREAM = 2


@dataclass(frozen=True)
class _Page:
    at: int
    begins_stream: bool
    granule: int  # -1: no packet ends in it


def chain_links(file: Seekable) -> list[tuple[int, int]]:
    """Return the links (start, stop) of a chained file; one link if it is not chained, or not Ogg.

    FFmpeg follows a chain only while the format stays the same, so each link must be opened separately.
    """
    position = file.tell()
    try:
        size = file.seek(0, 2)
        starts, after_data = [0], False
        for page in _pages(file, size):
            if page.begins_stream and after_data:
                starts.append(page.at)
            after_data = not page.begins_stream
    finally:
        file.seek(position)
    return list(zip(starts, [*starts[1:], size], strict=True))


def first_granule(file: Seekable) -> int | None:
    """Return the stated end of the first page that contains audio."""
    position = file.tell()
    try:
        return next((page.granule for page in _pages(file, file.seek(0, 2)) if page.granule > 0), None)
    finally:
        file.seek(position)


def ends_within_page(file: Seekable) -> bool:
    """Return True if the file ends in the middle of a page."""
    position = file.tell()
    try:
        size = file.seek(0, 2)
        file.seek(max(0, size - _LONGEST_PAGE_BYTES))
        tail = file.read()
    finally:
        file.seek(position)
    page = tail.rfind(b"OggS")
    if page < 0:
        return False
    table = tail[page + 27 : page + 27 + tail[page + 26]] if page + 26 < len(tail) else b""
    whole = page + 26 < len(tail) and len(table) == tail[page + 26]
    return not whole or page + 27 + len(table) + sum(table) > len(tail)


def _pages(file: Seekable, size: int) -> Iterator[_Page]:
    at = 0
    while at + 27 <= size:
        file.seek(at)
        header = file.read(_HEADER_BYTES)
        if header[:4] != b"OggS":
            if at == 0:
                return
            offset = (header + file.read(_LONGEST_PAGE_BYTES)).find(b"OggS", 1)
            at += offset if offset > 0 else _LONGEST_PAGE_BYTES
            continue
        segments = header[26]
        number = int.from_bytes(header[18:22], "little")
        granule = int.from_bytes(header[6:14], "little", signed=True)
        yield _Page(at, bool(header[5] & _BEGINS_STREAM) and number == 0, granule)
        at += 27 + segments + sum(header[27 : 27 + segments])
