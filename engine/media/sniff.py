"""Whether a file begins as one of the containers that are read here: then a failure is damage, else it is no audio."""

from __future__ import annotations

from typing import BinaryIO

_HEAD_BYTES = 8192
_PICTURE_BRANDS = (b"heic", b"heix", b"mif1", b"avif")
_KBITS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def looks_like_audio(file: BinaryIO) -> bool:
    """Judge by the first bytes; the file is left at its beginning."""
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
        or _is_adts(head)
        or _has_two_mp3_frames(head)
    )


def _is_adts(head: bytes) -> bool:
    """Two AAC frames, one after the other."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return False
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length > 7 and head[length : length + 1] == b"\xff"


def _has_two_mp3_frames(head: bytes) -> bool:
    length = _mp3_frame_bytes(head[:4])
    return length is not None and _mp3_frame_bytes(head[length : length + 4]) is not None


def _mp3_frame_bytes(header: bytes) -> int | None:
    """The length of the layer III frame that a header begins; None if it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, bit_rate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version not in _RATES or bit_rate in (0, 15) or rate == 3:
        return None
    kbits = (_KBITS_MPEG1 if version == 3 else _KBITS_MPEG2)[bit_rate]
    return (144 if version == 3 else 72) * kbits * 1000 // _RATES[version][rate] + (header[2] >> 1 & 1)
