"""A song file to raw samples on disk: float32, little-endian, interleaved, one or two channels, gapless."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.media.decoder import read_sound
from engine.media.samples import Samples


@dataclass(frozen=True)
class Decoded:
    """What lies in the raw file: `samples` frames of `channels` (1 or 2) at `sample_rate`, at most 192 kHz."""

    sample_rate: int
    channels: int
    samples: int
    peak: float
    tags: dict[str, str] = field(default_factory=dict)
    cover: bytes | None = None  # JPEG or PNG

    @property
    def duration_s(self) -> float:
        return self.samples / self.sample_rate


def decode(
    song: Path | int,
    out: Path | int,
    *,
    max_duration_s: float,
    max_bytes: int = sys.maxsize,
    on_progress: Callable[[float], None] | None = None,
) -> Decoded:
    """Decode `song` into `out`, in this process: for trusted files only, use the child for others.

    Both are paths or open descriptors. `on_progress` gets the fraction of the file that has been read. Raises as
    `probe` does.
    """
    with open(out, "wb") as raw:  # noqa: PTH123  # a descriptor has no path

        def keep(block: Samples) -> None:
            raw.write(np.ascontiguousarray(block.T, dtype="<f4").data)

        sound = read_sound(song, max_bytes=max_bytes, max_duration_s=max_duration_s, sink=keep, on_progress=on_progress)
    return Decoded(
        sample_rate=sound.out_sample_rate,
        channels=sound.out_channels,
        samples=sound.samples,
        peak=sound.peak,
        tags=sound.tags,
        cover=sound.cover,
    )
