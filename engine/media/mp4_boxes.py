"""Changes to the boxes of a finished MP4 file whose `moov` box comes last (ISO 14496-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from engine.errors import StorageFailed

_ENABLED = 1  # track flags; FFmpeg also sets 2, "in movie"


def boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield (type, start, start of content, end) of each box between two offsets. Raises `StorageFailed`."""
    while start < end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        if size < head or start + size > end:
            raise StorageFailed(detail=f"damaged box {kind!r}")
        yield kind, start, start + head, start + size
        start += size


def finish_stem_file(path: Path, stem_json: bytes) -> None:
    """Add the box `moov/udta/stem`, enable only the first track, and put the tracks into no alternate group.

    Only `moov` is read into memory. Raises `StorageFailed` for a file of another layout.
    """
    with path.open("r+b") as file:
        at = _moov_offset(path)
        file.seek(at)
        moov = bytearray(file.read())
        _, _, inner, end = next(boxes(moov, 0, len(moov)))
        tracks = [content for kind, _, content, _ in boxes(moov, inner, end) if kind == b"trak"]
        for number, track in enumerate(tracks):
            _set_flags(moov, track, enabled=number == 0)
        box = struct.pack(">I4s", 8 + len(stem_json), b"stem") + stem_json
        found = next((each for each in boxes(moov, inner, end) if each[0] == b"udta"), None)
        if found is None:
            moov += struct.pack(">I4s", 8 + len(box), b"udta") + box
        else:
            moov[found[3] : found[3]] = box
            struct.pack_into(">I", moov, found[1], found[3] - found[1] + len(box))
        struct.pack_into(">I", moov, 0, len(moov))
        file.seek(at)
        file.write(moov)


def _moov_offset(path: Path) -> int:
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(16).ljust(16, b"\0")
            length, kind = struct.unpack_from(">I4s", head)
            if length == 1:
                (length,) = struct.unpack_from(">Q", head, 8)
            if kind == b"moov" and at + length == size:
                return at
            if length < 8:
                break
            at += length
    raise StorageFailed(detail="moov is not the last box")


def _set_flags(moov: bytearray, track: int, *, enabled: bool) -> None:
    """Change the track header, which is the first box of a track."""
    kind, _, content, _ = next(boxes(moov, track, len(moov)))
    if kind != b"tkhd":
        raise StorageFailed(detail="a track without a header")
    version = moov[content]
    moov[content + 1 : content + 4] = bytes((0, 0, _ENABLED if enabled else 0))
    alternate_group = content + 4 + (32 if version == 1 else 20) + 8 + 2
    struct.pack_into(">H", moov, alternate_group, 0)
