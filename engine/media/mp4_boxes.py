"""Changes to the boxes of a finished MP4 file whose `moov` box comes last (ISO 14496-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
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


def finish_stem_file(path: Path, stem_json: bytes, *, key: str | None = None) -> None:
    """Add the box `moov/udta/stem`, enable only the first track, and put the tracks into no alternate group.

    `key`, such as "F#m", is added to the tags, which the file must have. Only `moov` is read into memory. Raises
    `StorageFailed` for a file of another layout.
    """
    with path.open("r+b") as file:
        at = _moov_offset(path)
        file.seek(at)
        moov = bytearray(file.read())
        _, _, inner, end = next(boxes(moov, 0, len(moov)))
        tracks = [content for kind, _, content, _ in boxes(moov, inner, end) if kind == b"trak"]
        for number, track in enumerate(tracks):
            _set_flags(moov, track, enabled=number == 0)
        if key is not None:
            _insert(moov, (b"moov", b"udta", b"meta", b"ilst"), _key_tag(key))
        box = _box(b"stem", stem_json)
        found = next((each for each in boxes(moov, inner, len(moov)) if each[0] == b"udta"), None)
        if found is None:
            box = _box(b"udta", box)
        _insert(moov, (b"moov",) if found is None else (b"moov", b"udta"), box)
        file.seek(at)
        file.write(moov)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _key_tag(key: str) -> bytes:
    """Return iTunes' tag for the initial key, which has no box of a fixed name."""
    mean, name = bytes(4) + b"com.apple.iTunes", bytes(4) + b"initialkey"
    text = struct.pack(">II", 1, 0) + key.encode()  # UTF-8, no locale
    return _box(b"----", _box(b"mean", mean) + _box(b"name", name) + _box(b"data", text))


def _insert(data: bytearray, path: Sequence[bytes], box: bytes) -> None:
    """Insert a box at the end of the box at `path`; the sizes of all boxes on the path grow. Raises `StorageFailed`."""
    start, end = 0, len(data)
    starts = []
    for wanted in path:
        found = next((each for each in boxes(data, start, end) if each[0] == wanted), None)
        if found is None:
            raise StorageFailed(detail=f"no box {wanted!r}")
        _, at, start, end = found
        starts.append(at)
        if wanted == b"meta":
            start += 4  # version and flags
    data[end:end] = box
    for at in starts:
        (size,) = struct.unpack_from(">I", data, at)
        struct.pack_into(">I", data, at, size + len(box))


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
