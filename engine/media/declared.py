"""How long a file itself says it is, where that can be trusted: to notice that its end is missing."""

from __future__ import annotations

import struct
from typing import BinaryIO

import av
from av.audio.stream import AudioStream

from engine.media.gapless import MOV

_LONGEST_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
_UNKNOWN_SIZE = 0xFFFFFF00  # stands (or 0) where the writer of a wav could not go back


def declared_seconds(container: av.container.InputContainer, stream: AudioStream, file: BinaryIO) -> float | None:
    """The length that the file itself states, seconds; None where there is only a guess from size and bit rate.

    mp3: the frame count of its Xing, Info or VBRI header. wav: the size of its data chunk. ogg: its last granule.
    """
    name = container.format.name
    if name == "mp3":
        return _mp3_seconds(file)
    if name == "wav":
        return _wav_seconds(file)
    if name in ("w64", "aiff", "caf", "flac", MOV):
        return _stream_seconds(stream)
    if name == "ogg":  # what was cut out of a longer stream does not begin at 0
        begins_s = float((stream.start_time or 0) * (stream.time_base or 0))
        return _stream_seconds(stream) if abs(begins_s) < 1 else None
    if name == "matroska,webm":
        return _matroska_seconds(container, stream)
    return None


def breaks_off(container_name: str, file: BinaryIO) -> bool:
    """Whether an ogg file ends in the middle of a page."""
    if container_name != "ogg":
        return False
    place = file.tell()
    try:
        size = file.seek(0, 2)
        file.seek(max(0, size - _LONGEST_OGG_PAGE_BYTES))
        tail = file.read()
    finally:
        file.seek(place)
    page = tail.rfind(b"OggS")
    if page < 0:
        return False
    table = tail[page + 27 : page + 27 + tail[page + 26]] if page + 26 < len(tail) else b""
    whole = page + 26 < len(tail) and len(table) == tail[page + 26]
    return not whole or page + 27 + len(table) + sum(table) > len(tail)


def wav_lies(file: BinaryIO) -> bool:
    """Whether a wav's data chunk ends long before the file does and something else than another chunk follows: the
    recorder died before it could write the length, or someone made it up. Then all of the file is sound."""
    chunk = _wav_data(file)
    if chunk is None:
        return False
    begin, size, bytes_a_second = chunk
    place = file.tell()
    try:
        end = file.seek(0, 2)
        file.seek(begin + size + (size & 1))
        following = file.read(8)
    finally:
        file.seek(place)
    if not 0 < size < _UNKNOWN_SIZE or end - begin - size < max(bytes_a_second, 8):
        return False
    is_chunk = following[:4].isascii() and following[:4].decode("ascii", "replace").isprintable()
    return not is_chunk or int.from_bytes(following[4:], "little") > end - begin - size


def _stream_seconds(stream: AudioStream) -> float | None:
    if not stream.duration or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base)


def _matroska_seconds(container: av.container.InputContainer, stream: AudioStream) -> float | None:
    """A track's own statement, else the whole file's if nothing but sound is in it (a picture may go on for longer)."""
    parts = stream.metadata.get("DURATION", "").split(":")
    if len(parts) == 3:
        try:
            return float(parts[0]) * 3600 + float(parts[1]) * 60 + float(parts[2])
        except ValueError:
            return None
    alone = all(other.index == stream.index or other.type != "video" for other in container.streams)
    return container.duration / 1_000_000 if container.duration and alone else None


def _wav_seconds(file: BinaryIO) -> float | None:
    chunk = _wav_data(file)
    if chunk is None:
        return None
    _, size, bytes_a_second = chunk
    return size / bytes_a_second if bytes_a_second and size < _UNKNOWN_SIZE else None


def _wav_data(file: BinaryIO) -> tuple[int, int, int] | None:
    """Where a wav's data begins, how long its header says it is, and how many bytes make a second."""
    place = file.tell()
    try:
        file.seek(0)
        head = file.read(1 << 20)
    finally:
        file.seek(place)
    if head[:4] != b"RIFF":
        return None
    at = 12
    bytes_a_second = 0
    while at + 8 <= len(head):
        kind, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if kind == b"fmt " and at + 20 <= len(head):
            bytes_a_second = int.from_bytes(head[at + 16 : at + 20], "little")
        if kind == b"data":
            return at + 8, size, bytes_a_second
        at += 8 + size + (size & 1)
    return None


def _mp3_seconds(file: BinaryIO) -> float | None:
    """From the frame count in a Xing, Info or VBRI header."""
    place = file.tell()
    try:
        file.seek(0)
        head = file.read(10)
        start = 0
        while head[:3] == b"ID3" and len(head) == 10:
            size = (head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127
            start += 10 + size + (10 if head[5] & 0x10 else 0)
            file.seek(start)
            head = file.read(10)
        file.seek(start)
        return _xing_seconds(file.read(8192))
    finally:
        file.seek(place)


_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _xing_seconds(data: bytes) -> float | None:
    for mark, skip in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        at = data.find(mark)
        if at < 4 or len(data) < at + skip + 4:
            continue
        if mark != b"VBRI" and not data[at + 7] & 1:  # flags: there is no frame count
            continue
        for distance in (36, 21, 13):  # from the frame's header: stereo, mono or MPEG-2, both
            header = data[at - distance : at] if at >= distance else b""
            if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
                continue
            version, rate_index = header[1] >> 3 & 3, header[2] >> 2 & 3
            if version in _RATES and rate_index < 3:
                (frames,) = struct.unpack_from(">I", data, at + skip)
                return float(frames * (1152 if version == 3 else 576) / _RATES[version][rate_index])
    return None
