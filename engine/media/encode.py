"""Encode float stems to wav, flac or mp3, block by block.

wav and flac are 24-bit: every player and audio workstation reads them, and the rounding (-144 dBFS per stem) is
inaudible in a sum of stems. 16 bits would need dither; float is a third larger and not supported everywhere. mp3 has a
constant 320 kbit/s and a LAME header, so players cut the encoder's delay and padding to the sample.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from io import FileIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Disposition
from numpy.typing import NDArray

from engine.errors import DiskFull, StorageFailed, is_disk_full
from engine.media.music_tags import PADDING_BYTES
from engine.media.samples import Samples
from engine.media.tags import picture_kind

MP3_BIT_RATE = 320_000
# LAME's first level without noise shaping: less than half the work of the default 3 and, at 320 kbit/s, a smaller
# error (36.1 dB instead of 34.4 on drums), which matters when stems are mixed again.
_LAME_QUALITY = "7"
_FRAME_SAMPLES = 1 << 14
_BUFFER_BYTES = 1 << 18
_PICTURE_TIME_BASE = Fraction(1, 90000)


@dataclass(frozen=True)
class EncodedFile:
    """A finished file: `bitrate` in bits per second (None for wav), `peak` before clipping."""

    size_bytes: int
    samples: int
    bitrate: int | None
    clipped_samples: int
    peak: float


class StemEncoder:
    """Write one file, which appears under its name at `close`; until then, or after `abort`, it does not exist.

        with StemEncoder(path, format="flac", sample_rate=44100, tags={"title": "Sunny (vocals)"}) as encoder:
            encoder.write(block)  # float32 (2, samples), any length
        encoder.encoded

    Use an encoder from one thread at a time; several run in parallel because FFmpeg releases the interpreter lock.
    Values beyond full scale are clipped and counted. Raises `DiskFull` and `StorageFailed`.
    """

    def __init__(
        self,
        path: Path,
        *,
        format: str,  # noqa: A002 - the name of the option
        sample_rate: int,
        channels: int = 2,
        tags: Mapping[str, str] | None = None,
        cover: bytes | None = None,
        bits: int = 24,
        bit_rate: int = MP3_BIT_RATE,
        descriptor: int | None = None,
    ) -> None:
        """Open the file.

        `format`: "wav", "flac" or "mp3"; `bits`: 16 or 24, not for mp3; `bit_rate`: of mp3, in bits per second;
        `cover`: JPEG or PNG, ignored for wav. `descriptor`: an open, empty file to write to, for a process that must
        not use paths; `path` only names it.
        """
        if format not in ("wav", "flac", "mp3") or bits not in (16, 24) or channels not in (1, 2):
            raise ValueError(f"cannot encode {format}, {bits} bits, {channels} channels")
        self.path = path
        self.encoded: EncodedFile | None = None
        self._sample_rate, self._channels, self._bits = sample_rate, channels, bits
        self._bit_rate = bit_rate
        self._format = format
        self._samples = 0
        self._clipped_samples = 0
        self._peak = 0.0
        place = path.with_name(f".{path.name}.part") if descriptor is None else descriptor
        self._partial = place if isinstance(place, Path) else None
        with encoder_errors():
            self._file = FileIO(place, "wb")
        try:
            with encoder_errors():
                self._open(tags or {}, cover)
        except BaseException:
            self.abort()
            raise

    def __enter__(self) -> StemEncoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, block: Samples) -> None:
        """Append float32 (channels, samples)."""
        if block.shape[0] != self._channels:
            raise ValueError(f"{block.shape[0]} channels instead of {self._channels}")
        if not block.shape[1]:
            return
        low, high = float(block.min()), float(block.max())
        if not np.isfinite(low + high):
            block = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
            low, high = float(block.min()), float(block.max())
        self._peak = max(self._peak, high, -low)
        if low < -1.0 or high > 1.0:
            self._clipped_samples += int(np.count_nonzero(np.abs(block) > 1.0))
            block = np.clip(block, -1.0, 1.0)
        with encoder_errors():
            for start in range(0, block.shape[1], _FRAME_SAMPLES):
                self._encode(block[:, start : start + _FRAME_SAMPLES])

    def close(self) -> EncodedFile:
        """Finish the file and move it to its name."""
        if self.encoded is not None:
            return self.encoded
        try:
            with encoder_errors():
                self._output.mux(self._stream.encode(None))
                self._output.close()
                size = os.fstat(self._file.fileno()).st_size
                self._file.close()
                if self._partial is not None:
                    self._partial.replace(self.path)
        except BaseException:
            self.abort()
            raise
        seconds = self._samples / self._sample_rate
        average = round(size * 8 / seconds) if seconds else 0
        self.encoded = EncodedFile(
            size_bytes=size,
            samples=self._samples,
            bitrate={"wav": None, "mp3": self._bit_rate}.get(self._format, average),
            clipped_samples=self._clipped_samples,
            peak=self._peak,
        )
        return self.encoded

    def abort(self) -> None:
        """Stop and delete the unfinished file."""
        output = getattr(self, "_output", None)
        if output is not None:
            with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                output.close()
        self._file.close()
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)

    def _open(self, tags: Mapping[str, str], cover: bytes | None) -> None:
        muxer = {"mp3": {"id3v2_version": "3", "write_id3v1": "1", "metadata_header_padding": str(PADDING_BYTES)}}.get(
            self._format, {}
        )
        self._output = av.open(self._file, "w", format=self._format, container_options=muxer, buffer_size=_BUFFER_BYTES)
        self._output.metadata.update(tags)
        codec = {"wav": f"pcm_s{self._bits}le", "flac": "flac", "mp3": "libmp3lame"}[self._format]
        stream = self._output.add_stream(codec, rate=self._sample_rate)
        assert isinstance(stream, AudioStream)
        self._stream = stream
        context = stream.codec_context
        context.layout = "stereo" if self._channels == 2 else "mono"
        if self._format == "mp3":
            stream.bit_rate = self._bit_rate
            context.options = {"compression_level": _LAME_QUALITY}
            context.format = "fltp"
        else:
            context.format = "s32" if self._bits == 24 else "s16"
        context.thread_count = 1
        start_output(self._output, None if self._format == "wav" else cover)

    def _encode(self, block: Samples) -> None:
        frame = av.AudioFrame.from_ndarray(
            self._in_format(block),
            format=self._stream.codec_context.format.name,
            layout=self._stream.codec_context.layout.name,
        )
        frame.sample_rate = self._sample_rate
        frame.pts = self._samples
        frame.time_base = Fraction(1, self._sample_rate)
        self._samples += block.shape[1]
        self._output.mux(self._stream.encode(frame))

    def _in_format(self, block: Samples) -> NDArray[Any]:
        """Convert a block to the codec's format: planar floats or interleaved integers."""
        if self._format == "mp3":
            return np.ascontiguousarray(block, dtype=np.float32)
        full_scale = 1 << (self._bits - 1)
        scaled = block * np.float32(full_scale)  # exact, like the steps below: a float32 has 24 bits
        np.minimum(np.rint(scaled, out=scaled), np.float32(full_scale - 1), out=scaled)
        if self._bits == 24:
            scaled *= np.float32(1 << 8)
        return scaled.T.astype(np.int32 if self._bits == 24 else np.int16, order="C").reshape(1, -1)


def start_output(output: OutputContainer, cover: bytes | None) -> None:
    """Write the header of a file, and `cover` (JPEG or PNG) as its attached picture."""
    kind = picture_kind(cover) if cover else None
    picture = None
    if kind is not None:
        picture = output.add_mux_stream(kind, width=1, height=1, time_base=_PICTURE_TIME_BASE)
        picture.disposition = Disposition.attached_pic
    output.start_encoding()
    if picture is not None and cover is not None:
        packet = av.Packet(cover)
        packet.stream = picture
        packet.pts = packet.dts = 0
        output.mux(packet)


@contextlib.contextmanager
def encoder_errors() -> Iterator[None]:
    """Raise errors of FFmpeg and of the disk as `DiskFull` or `StorageFailed`."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error) or error.errno == errno.EFBIG:
            raise DiskFull(detail=os.strerror(error.errno or 0)) from error
        raise StorageFailed(detail=f"{type(error).__name__}: {error}") from error
    except av.FFmpegError as error:
        raise StorageFailed(detail=f"{type(error).__name__}: {error}") from error
