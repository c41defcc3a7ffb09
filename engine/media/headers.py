"""File headers: whether a file is audio, and where it says that its track ends."""

from __future__ import annotations

import struct
from typing import BinaryIO

import av
from av.audio.stream import AudioStream

from engine.media.view import Seekable
from engine.media.wav import read_wav_header

MOV, OGG, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "ogg", "matroska,webm"

_HEAD_BYTES = 8192
_PICTURE_BRANDS = (b"heic", b"heix", b"mif1", b"avif")
_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Sample rates by MPEG version (3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5)."""
_KBITS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_LARGEST_SIZE_BYTES = 0x7EF00000  # about 2 GiB: programs that write into a pipe state it for an unknown size


def looks_like_audio(file: BinaryIO) -> bool:
    """Return True if the file starts like a supported container: a failure to decode it is then damage.

    Leaves the file at its beginning.
    """
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if head[:4] in (b"RIFF", b"RF64"):
        return head[8:12] == b"WAVE"
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC")
    if head[4:8] == b"ftyp":
        return head[8:12] not in _PICTURE_BRANDS
    return (
        head[:4] in (b"fLaC", b"OggS", b"\x1aE\xdf\xa3", b"caff", b"riff")
        or head[4:8] in (b"moov", b"mdat")
        or head[:3] == b"ID3"
        or _has_two_aac_frames(head)
        or _has_two_mp3_frames(head)
    )


def _has_two_aac_frames(head: bytes) -> bool:
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return False
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length > 7 and head[length : length + 1] == b"\xff"


def _has_two_mp3_frames(head: bytes) -> bool:
    length = _mp3_frame_bytes(head[:4])
    return length is not None and _mp3_frame_bytes(head[length : length + 4]) is not None


def _mp3_frame_bytes(header: bytes) -> int | None:
    """Return the length of a layer III frame; None if `header` does not start one."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, bit_rate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version not in _MP3_RATES or bit_rate in (0, 15) or rate == 3:
        return None
    kbits = (_KBITS_MPEG1 if version == 3 else _KBITS_MPEG2)[bit_rate]
    return (144 if version == 3 else 72) * kbits * 1000 // _MP3_RATES[version][rate] + (header[2] >> 1 & 1)


def declared_end_s(container: av.container.InputContainer, stream: AudioStream, file: Seekable) -> float | None:
    """Return the stated end of the track on the clock of its timestamps; None if there is only an estimate.

    mp3: from the frame count in its Xing, Info or VBRI header. wav: from the size of its data chunk. ogg: its last
    granule.
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
    """Return the length of uncompressed or lossless audio; None if its size is a placeholder."""
    length_s = _stream_seconds(stream)
    if length_s is None or length_s * (stream.bit_rate or 0) / 8 > _LARGEST_SIZE_BYTES:
        return None
    return length_s


def _pre_skip_s(stream: AudioStream) -> float:
    """Return how much of the start of an Opus track decoders drop."""
    head = stream.codec_context.extradata or b""
    return int.from_bytes(head[10:12], "little") / 48000 if head[:8] == b"OpusHead" else 0.0


def _matroska_end_s(container: av.container.InputContainer, stream: AudioStream) -> float | None:
    """Return the track's stated end, or the file's if there is no video, which can be longer."""
    parts = stream.metadata.get("DURATION", "").split(":")
    if len(parts) == 3:
        try:
            return float(parts[0]) * 3600 + float(parts[1]) * 60 + float(parts[2])
        except ValueError:
            return None
    alone = all(other.index == stream.index or other.type != "video" for other in container.streams)
    return container.duration / 1_000_000 if container.duration and alone else None


def _mp3_seconds(file: Seekable) -> float | None:
    """Return the length by the frame count in a Xing, Info or VBRI header."""
    position = file.tell()
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
        file.seek(position)


def _xing_seconds(data: bytes) -> float | None:
    for mark, skip in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        at = data.find(mark)
        if at < 4 or len(data) < at + skip + 4:
            continue
        if mark != b"VBRI" and not data[at + 7] & 1:  # flags: no frame count
            continue
        for distance in (36, 21, 13):  # from the frame's header: stereo; mono or MPEG-2; both
            header = data[at - distance : at] if at >= distance else b""
            if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
                continue
            version, rate_index = header[1] >> 3 & 3, header[2] >> 2 & 3
            if version in _MP3_RATES and rate_index < 3:
                (frames,) = struct.unpack_from(">I", data, at + skip)
                return float(frames * (1152 if version == 3 else 576) / _MP3_RATES[version][rate_index])
    return None
