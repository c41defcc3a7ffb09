"""Headers of wav files: the length of the audio, and sample widths that FFmpeg misreads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.media.view import Seekable

_HEADER_BYTES = 1 << 20
_PCM, _MS_ADPCM, _FLOAT, _ALAW, _MULAW, _IMA_ADPCM, _EXTENSIBLE = 1, 2, 3, 6, 7, 0x11, 0xFFFE
_PLACEHOLDERS = (1 << 31, 1 << 32)
_PLACEHOLDER_MARGIN_BYTES = 1 << 20


@dataclass(frozen=True)
class WavHeader:
    """The chunks of a wav file up to its data.

    `bits_at`: positions in the file of the two-byte fields that state `bits`.
    """

    format_tag: int
    channels: int
    sample_rate: int
    bytes_per_second: int  # as stated, often wrong
    block_bytes: int
    container_bits: int
    bits: int
    bits_at: tuple[int, ...]
    data_at: int
    data_bytes: int
    file_bytes: int

    @property
    def true_bytes_per_second(self) -> float | None:
        """Return the rate by the format alone; None for codecs of variable bit rate."""
        if self.format_tag in (_PCM, _FLOAT, _ALAW, _MULAW):
            return self.sample_rate * self.channels * self._container_bytes
        samples = self._adpcm_block_samples
        return self.sample_rate * self.block_bytes / samples if samples > 0 else None

    @property
    def _container_bytes(self) -> int:
        """Return the bytes of one sample; the block size, often wrong, counts only if the format allows padding."""
        stated = -(-self.bits // 8)
        may_be_padded = self.container_bits > self.bits or stated == 3
        if self.format_tag == _PCM and may_be_padded and self.block_bytes in (3 * self.channels, 4 * self.channels):
            return max(stated, self.block_bytes // max(1, self.channels))
        return stated

    @property
    def _adpcm_block_samples(self) -> int:
        if not self.channels or not self.bits:
            return 0
        head_bytes = {_MS_ADPCM: 7, _IMA_ADPCM: 4}.get(self.format_tag)
        if head_bytes is None:
            return 0
        coded_bytes = self.block_bytes - head_bytes * self.channels
        return coded_bytes * 8 // (self.bits * self.channels) + (2 if self.format_tag == _MS_ADPCM else 1)

    @property
    def declared_s(self) -> float | None:
        """Length of the data chunk in seconds; None if unknown."""
        rate = self.true_bytes_per_second
        if not rate or (self._missing_bytes > 0 and is_placeholder(self.data_bytes)):
            return None
        return self.data_bytes / rate

    @property
    def is_cut(self) -> bool:
        """Whether much of the data is missing, for codecs whose length in seconds is unknown."""
        if self.true_bytes_per_second is not None:
            return False
        return self._missing_bytes > self.data_bytes // 20 and not is_placeholder(self.data_bytes)

    @property
    def _missing_bytes(self) -> int:
        return self.data_at + self.data_bytes - self.file_bytes

    def patches(self, file: Seekable) -> dict[int, int]:
        """Return bytes (position: value) to read instead of the file's, for integers in a wider container.

        FFmpeg takes 24 bits in 32 for Cool Edit's floats, and 16 in 24 for packed 16-bit samples.
        """
        width = self._container_bytes
        if self.format_tag != _PCM or width == -(-self.bits // 8) or self._holds_floats(file, width):
            return {}
        return {at + i: byte for at in self.bits_at for i, byte in enumerate((8 * width, 0))}

    def _holds_floats(self, file: Seekable, width: int) -> bool:
        """Return True for Cool Edit's floats, whose exponents are moderate; those of integers are not."""
        if width != 4:
            return False
        position = file.tell()
        try:
            file.seek(self.data_at)
            data = file.read(min(self.data_bytes or _HEADER_BYTES, _HEADER_BYTES))
        finally:
            file.seek(position)
        words = np.frombuffer(data[: len(data) // 4 * 4], "<u4")
        exponents = (words[words != 0] >> 23 & 0xFF).astype(np.int64) - 127
        return bool(np.count_nonzero(np.abs(exponents) <= 24) > 0.9 * exponents.size)


def is_placeholder(data_bytes: int) -> bool:
    """Return True if a size means "unknown", as written by recorders and programs that write into a pipe."""
    return any(abs(data_bytes - size) <= _PLACEHOLDER_MARGIN_BYTES for size in _PLACEHOLDERS)


def read_wav_header(file: Seekable) -> WavHeader | None:
    """Parse the chunks up to the data; return None if this is not a wav file."""
    position = file.tell()
    try:
        file.seek(0)
        head = file.read(_HEADER_BYTES)
        file_bytes = file.seek(0, 2)
    finally:
        file.seek(position)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
        return None
    at, fmt, fmt_at = 12, b"", 0
    while at + 8 <= len(head):
        kind, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if kind == b"fmt ":
            fmt, fmt_at = head[at + 8 : at + 8 + size], at + 8
        if kind == b"data":
            return _header(fmt, fmt_at, at + 8, size, file_bytes) if len(fmt) >= 14 else None
        at += 8 + size + (size & 1)
    return None


def _header(fmt: bytes, fmt_at: int, data_at: int, data_bytes: int, file_bytes: int) -> WavHeader:
    def number(at: int, length: int = 2) -> int:
        return int.from_bytes(fmt[at : at + length], "little")

    tag, bits, bits_at = number(0), number(14), [fmt_at + 14]
    if tag == _EXTENSIBLE and len(fmt) >= 26:
        tag = number(24)
        if number(18):
            bits = number(18)
            bits_at.append(fmt_at + 18)
    return WavHeader(
        format_tag=tag,
        channels=number(2),
        sample_rate=number(4, 4),
        bytes_per_second=number(8, 4),
        block_bytes=number(12),
        container_bits=number(14),
        bits=bits,
        bits_at=tuple(bits_at),
        data_at=data_at,
        data_bytes=data_bytes,
        file_bytes=file_bytes,
    )


def states_less_than_it_holds(file: Seekable) -> bool:
    """Whether the data go on after the stated end of the data chunk.

    The recorder crashed before it wrote the length, or the length is invented; the whole rest of the file is audio.
    """
    header = read_wav_header(file)
    if header is None:
        return False
    position = file.tell()
    try:
        file.seek(header.data_at + header.data_bytes + (header.data_bytes & 1))
        following = file.read(8)
    finally:
        file.seek(position)
    rest_bytes = header.file_bytes - header.data_at
    second_bytes = header.true_bytes_per_second or header.bytes_per_second
    if header.data_bytes == 0 or rest_bytes - header.data_bytes < max(second_bytes, 8):
        return False
    is_chunk = following[:4].isascii() and following[:4].decode("ascii", "replace").isprintable()
    return not is_chunk or int.from_bytes(following[4:], "little") > rest_bytes - header.data_bytes
