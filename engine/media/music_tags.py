"""Add tempo and key to the tags of a finished file, without touching its audio.

They are known only after the file was encoded. mp3 and flac files have padding for them after their tags
(`engine.media.encode`); a wav file gets the chunk `id3 ` at its end.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

PADDING_BYTES = 256
_ID3_HEADER = 10
_COMMENTS, _PADDING = 4, 1  # types of flac's metadata blocks
_LAST_BLOCK = 0x80


def add_music_tags(path: Path, *, tempo_bpm: float | None, key: str | None) -> None:
    """Write the tempo and the short name of the key, such as "F#m", to a wav, flac or mp3 file of `StemEncoder`."""
    if tempo_bpm is None and key is None:
        return
    with path.open("r+b") as file:
        if path.suffix == ".flac":
            _add_to_flac(file, _comments(tempo_bpm, key))
        elif path.suffix == ".wav":
            _append_to_wav(file, _frames(tempo_bpm, key))
        else:
            _add_to_id3(file, _frames(tempo_bpm, key))


def _frames(tempo_bpm: float | None, key: str | None) -> bytes:
    """Return the frames of an ID3v2.3 tag. The tempo is a whole number there."""
    out = b""
    for name, text in ((b"TBPM", tempo_bpm and f"{tempo_bpm:.0f}"), (b"TKEY", key)):
        if text:
            body = b"\0" + text.encode("latin-1")
            out += name + struct.pack(">IH", len(body), 0) + body
    return out


def _comments(tempo_bpm: float | None, key: str | None) -> list[bytes]:
    tempo = [] if tempo_bpm is None else [f"BPM={tempo_bpm:.1f}".encode()]
    return tempo if key is None else [*tempo, f"INITIALKEY={key}".encode()]


def _add_to_id3(file: BinaryIO, frames: bytes) -> None:
    """Write `frames` over the padding of the tag; leave the file unchanged if there is too little."""
    header = file.read(_ID3_HEADER)
    if header[:4] != b"ID3\x03":
        return
    size = 0
    for digit in header[6:10]:
        size = size << 7 | digit
    tag = file.read(size)
    at = 0
    while at + _ID3_HEADER <= size and tag[at]:
        at += _ID3_HEADER + int(struct.unpack_from(">I", tag, at + 4)[0])
    if at + len(frames) <= size:
        file.seek(_ID3_HEADER + at)
        file.write(frames)


def _add_to_flac(file: BinaryIO, comments: list[bytes]) -> None:
    """Make the block of comments longer and the padding after it shorter by as much."""
    blocks: list[tuple[int, bytes]] = []
    if file.read(4) != b"fLaC":
        return
    is_last = False
    while not is_last:
        kind, *length = file.read(4)
        is_last = bool(kind & _LAST_BLOCK)
        blocks.append((kind & ~_LAST_BLOCK, file.read(int.from_bytes(bytes(length)))))
    added = b"".join(struct.pack("<I", len(comment)) + comment for comment in comments)
    grown = [(kind, _with_comments(body, added, len(comments)) if kind == _COMMENTS else body) for kind, body in blocks]
    kind, padding = grown[-1]
    if kind != _PADDING or len(padding) < len(added):
        return
    grown[-1] = (kind, padding[len(added) :])
    out = b""
    for number, (kind, body) in enumerate(grown, start=1):
        out += bytes([kind | (_LAST_BLOCK if number == len(grown) else 0)]) + len(body).to_bytes(3) + body
    file.seek(4)
    file.write(out)


def _with_comments(body: bytes, added: bytes, count: int) -> bytes:
    at = 4 + int(struct.unpack_from("<I", body)[0])  # after the vendor
    before = int(struct.unpack_from("<I", body, at)[0])
    return body[:at] + struct.pack("<I", before + count) + body[at + 4 :] + added


def _append_to_wav(file: BinaryIO, frames: bytes) -> None:
    size = len(frames)
    digits = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    tag = b"ID3\x03\0\0" + digits + frames
    file.seek(0, 2)
    end = file.tell()
    pad = b"\0" * (len(tag) % 2)
    file.write(b"\0" * (end % 2) + b"id3 " + struct.pack("<I", len(tag)) + tag + pad)
    riff_bytes = file.tell() - 8
    if riff_bytes < 1 << 32:
        file.seek(4)
        file.write(struct.pack("<I", riff_bytes))
