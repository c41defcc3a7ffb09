"""Decode or examine a file in this process: for trusted files, and inside the sandboxed child.

Decoded audio is raw on disk: float32, little-endian, interleaved, one or two channels, without encoder padding.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.media.decoder import read_audio
from engine.media.limits import MediaLimits
from engine.media.samples import Samples
from engine.media.track import DecodedAudio


@dataclass(frozen=True)
class RawAudio:
    """A raw file: `samples` frames of `channels` (1 or 2) at `sample_rate`, at most 192 kHz."""

    sample_rate: int
    channels: int
    samples: int
    peak: float
    audio_hash: str
    tags: dict[str, str] = field(default_factory=dict)
    cover: bytes | None = None  # JPEG or PNG

    @property
    def duration_s(self) -> float:
        return self.samples / self.sample_rate


@dataclass(frozen=True)
class Probe:
    """The properties of a file that can be separated.

    `sample_rate`, `channels` and `bits` are the file's own; `duration_s` and `samples` (at `sample_rate`) were
    measured by decoding all of it, because headers can be wrong. `peak` is the largest amplitude, full scale 1.
    """

    container: str
    codec: str
    sample_rate: int
    channels: int
    duration_s: float
    samples: int
    bits: int | None
    title: str | None
    artist: str | None
    album: str | None
    has_cover: bool
    peak: float
    audio_hash: str
    tags: dict[str, str] = field(default_factory=dict)


class _AudioHash:
    """SHA-256 of decoded samples, their rate and their number of channels."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, block: Samples) -> memoryview:
        """Add a block and return its raw bytes."""
        raw = np.ascontiguousarray(block.T, dtype="<f4").data
        self._hash.update(raw)
        return raw

    def digest(self, audio: DecodedAudio) -> str:
        self._hash.update(f"{audio.out_sample_rate} {audio.out_channels}".encode())
        return self._hash.hexdigest()


def decode(
    song: Path | int,
    out: Path | int,
    *,
    max_duration_s: float,
    max_bytes: int = sys.maxsize,
    on_progress: Callable[[float], None] | None = None,
) -> RawAudio:
    """Decode `song` into `out`; both are paths or open descriptors.

    `on_progress` gets the fraction of the file that was read. Raises as `engine.media.decoder.read_audio` does.
    """
    audio_hash = _AudioHash()
    with open(out, "wb") as raw:  # noqa: PTH123  # a descriptor has no path

        def write(block: Samples) -> None:
            raw.write(audio_hash.add(block))

        audio = read_audio(
            song, max_bytes=max_bytes, max_duration_s=max_duration_s, sink=write, on_progress=on_progress
        )
    return RawAudio(
        sample_rate=audio.out_sample_rate,
        channels=audio.out_channels,
        samples=audio.samples,
        peak=audio.peak,
        audio_hash=audio_hash.digest(audio),
        tags=audio.tags,
        cover=audio.cover,
    )


def probe(song: Path | int, limits: MediaLimits, *, on_progress: Callable[[float], None] | None = None) -> Probe:
    """Examine `song`, a path or an open descriptor.

    `on_progress` gets the fraction of the file that was read. Raises as `engine.media.decoder.read_audio` does.
    """
    audio_hash = _AudioHash()
    audio = read_audio(
        song,
        max_bytes=limits.max_bytes,
        max_duration_s=limits.max_duration_s,
        sink=audio_hash.add,
        on_progress=on_progress,
    )
    duration_s = audio.samples / audio.out_sample_rate
    return Probe(
        container=audio.container,
        codec=audio.codec,
        sample_rate=audio.sample_rate,
        channels=audio.channels,
        duration_s=duration_s,
        samples=round(duration_s * audio.sample_rate),
        bits=audio.bits,
        title=audio.tags.get("title"),
        artist=audio.tags.get("artist"),
        album=audio.tags.get("album"),
        has_cover=audio.cover is not None,
        peak=audio.peak,
        audio_hash=audio_hash.digest(audio),
        tags=audio.tags,
    )
