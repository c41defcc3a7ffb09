"""What a file is, found by decoding all of it: a header may say anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engine.media.decoder import read_sound
from engine.media.limits import MediaLimits


@dataclass(frozen=True)
class Probe:
    """A file that can be separated. `sample_rate`, `channels` and `bits` are the file's own; `duration_s` and
    `samples` (at `sample_rate`) are what was decoded; `peak` is the largest amplitude, full scale 1."""

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
    tags: dict[str, str] = field(default_factory=dict)


def probe(song: Path | int, limits: MediaLimits) -> Probe:
    """Examine a path or an open descriptor in this process: for trusted files only, use the child for others.

    Raises as `engine.media.sandbox.probe` does.
    """
    sound = read_sound(song, max_bytes=limits.max_bytes, max_duration_s=limits.max_duration_s, sink=lambda block: None)
    duration_s = sound.samples / sound.out_sample_rate
    return Probe(
        container=sound.container,
        codec=sound.codec,
        sample_rate=sound.sample_rate,
        channels=sound.channels,
        duration_s=duration_s,
        samples=round(duration_s * sound.sample_rate),
        bits=sound.bits,
        title=sound.tags.get("title"),
        artist=sound.tags.get("artist"),
        album=sound.tags.get("album"),
        has_cover=sound.cover is not None,
        peak=sound.peak,
        tags=sound.tags,
    )
