"""Where a file itself says that its sound ends, to notice that its end is missing."""

from __future__ import annotations

import struct

import av
from av.audio.stream import AudioStream

from engine.media.gapless import MOV
from engine.media.view import Seekable
from engine.media.wav import read_wav_header

OGG, MATROSKA = "ogg", "matroska,webm"
_LARGEST_SIZE_BYTES = 0x7EF00000  # about 2 GiB, as programs that write into a pipe state it


def declared_end_s(container: av.container.InputContainer, stream: AudioStream, file: Seekable) -> float | None:
    """Where the file itself says that the track ends, by its timestamps; None where there is only a guess.

    mp3: the frame count of its Xing, Info or VBRI header. wav: the size of its data chunk. ogg: its last granule.
    """
    name = container.format.name
    if name == "mp3":
        return _mp3_seconds(file)
    if name == "wav":
        header = read_wav_header(file)
        return header.declared_s if header is not None else None
    if name in ("w64", "aiff", "caf", "flac"):
        return _stored_seconds(stream)
    if name == MOV:  # the duration leaves out the time before the track starts
        length_s = _stream_seconds(stream)
        return None if length_s is None else length_s + _seconds(stream, stream.start_time)
    if name == OGG:
        length_s = _stream_seconds(stream)
        return None if length_s is None else length_s - _pre_skip_s(stream)
    if name == MATROSKA:
        end_s = _matroska_end_s(container, stream)
        return None if end_s is None else end_s - _pre_skip_s(stream)
    return None


def _seconds(stream: AudioStream, ticks: int | None) -> float:
    return float((ticks or 0) * (stream.time_base or 0))


def _stream_seconds(stream: AudioStream) -> float | None:
    return _seconds(stream, stream.duration) or None


def _stored_seconds(stream: AudioStream) -> float | None:
    """The length of uncompressed or lossless sound; None if its size stands for an unknown one."""
    length_s = _stream_seconds(stream)
    if length_s is None or length_s * (stream.bit_rate or 0) / 8 > _LARGEST_SIZE_BYTES:
        return None
    return length_s


def _pre_skip_s(stream: AudioStream) -> float:
    """How much of the start of an Opus track is dropped."""
    head = stream.codec_context.extradata or b""
    return int.from_bytes(head[10:12], "little") / 48000 if head[:8] == b"OpusHead" else 0.0


def _matroska_end_s(container: av.container.InputContainer, stream: AudioStream) -> float | None:
    """The track's own statement, else the whole file's if there is no video, which may go on for longer."""
    parts = stream.metadata.get("DURATION", "").split(":")
    if len(parts) == 3:
        try:
            return float(parts[0]) * 3600 + float(parts[1]) * 60 + float(parts[2])
        except ValueError:
            return None
    alone = all(other.index == stream.index or other.type != "video" for other in container.streams)
    return container.duration / 1_000_000 if container.duration and alone else None


def _mp3_seconds(file: Seekable) -> float | None:
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
