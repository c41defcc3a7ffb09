"""Where a track really begins and ends.

FFmpeg already drops encoder delay and padding where the container tells it as skip side data: the LAME header of mp3,
Opus' pre-skip, Vorbis' granules, the edit list's start. What it leaves in is the padding at the end of AAC in mp4.
This also tells how long a file itself says it is, where that can be trusted: to notice that its end is missing.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import av
from av.audio.stream import AudioStream

from engine.media.samples import Samples

MOV = "mov,mp4,m4a,3gp,3g2,mj2"
_ROUNDING_S = 0.002  # edit lists count in the movie's time scale, often milliseconds
_LONGEST_PADDING_SAMPLES = 8192


def mov_length(container: av.container.InputContainer, stream: AudioStream) -> int | None:
    """How many samples an mp4's edit list (or iTunes' own note) leaves; None when it does not say."""
    if container.format.name != MOV:
        return None
    note = (stream.metadata.get("iTunSMPB") or container.metadata.get("iTunSMPB") or "").split()
    if len(note) >= 4:
        try:
            count = int(note[3], 16)
        except ValueError:
            count = 0
        if count > 0:
            return count
    if not stream.duration or stream.time_base is None:
        return None
    return int((float(stream.duration * stream.time_base) + _ROUNDING_S) * stream.sample_rate)


class Padding:
    """Holds back what comes after `length` samples and drops it, if it is no more than an encoder's padding. A
    `length` that the sound goes far beyond is a lie and is forgotten."""

    def __init__(self, length: int | None) -> None:
        self._left = length
        self._held: list[Samples] = []
        self._held_samples = 0

    def __call__(self, block: Samples) -> list[Samples]:
        """What may be passed on of `block`, and of what was held before."""
        if self._left is None:
            return [block]
        passed, rest = block[:, : self._left], block[:, self._left :]
        self._left -= passed.shape[1]
        if not rest.shape[1]:
            return [passed]
        self._held.append(rest)
        self._held_samples += rest.shape[1]
        if self._held_samples <= _LONGEST_PADDING_SAMPLES:
            return [passed] if passed.shape[1] else []
        released = [passed, *self._held]
        self._left, self._held = None, []
        return released


def declared_seconds(container: av.container.InputContainer, stream: AudioStream, file: BinaryIO) -> float | None:
    """The length that the file itself states, seconds. None where there is only a guess from size and bit rate, or
    where the end of what is there is the only statement (ogg, adts, wav written to a pipe)."""
    name = container.format.name
    if name == "mp3":
        return _mp3_seconds(file)
    if name in ("wav", "w64", "aiff", "caf"):
        return _pcm_seconds(container, stream, file) if name == "wav" else _stream_seconds(stream)
    if name in (MOV, "flac"):
        return _stream_seconds(stream)
    if name == "matroska,webm" and container.duration:
        # the whole file's length; a video's picture may go on after its sound
        alone = all(other is stream or other.type != "video" for other in container.streams)
        return container.duration / 1_000_000 if alone else None
    return None


def _stream_seconds(stream: AudioStream) -> float | None:
    if not stream.duration or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base)


def _pcm_seconds(container: av.container.InputContainer, stream: AudioStream, file: BinaryIO) -> float | None:
    """From the size of a wav's data chunk. 0 and 0xFFFFFFFF stand there when the writer could not go back."""
    place = file.tell()
    try:
        file.seek(0)
        head = file.read(1 << 20)
    finally:
        file.seek(place)
    if head[:4] != b"RIFF":
        return None
    at = 12
    rate = 0
    while at + 8 <= len(head):
        kind, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if kind == b"fmt " and at + 20 <= len(head):
            rate = int.from_bytes(head[at + 16 : at + 20], "little")
        if kind == b"data":
            return size / rate if rate and size < 0xFFFFFF00 else None
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
