"""Cut an excerpt from a decoded song."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.media.decode import RawAudio

_HOPS_PER_S = 4
_FRAME_BYTES = 4  # float32
_BLOCK_FRAMES = 1 << 18


def cut_excerpt(raw: Path, audio: RawAudio, out: Path, *, seconds: float, start_s: float | None) -> tuple[float, int]:
    """Write at most `seconds` of the decoded file `raw` to `out`, from `start_s` on or where it is loudest.

    Return the start in seconds and the length in samples. An excerpt ends with the song at the latest.
    """
    frames = min(audio.samples, round(seconds * audio.sample_rate))
    first = _loudest(raw, audio, frames) if start_s is None else round(start_s * audio.sample_rate)
    first = min(first, audio.samples - frames)
    frame_bytes = _FRAME_BYTES * audio.channels
    with raw.open("rb") as source, out.open("wb") as target:
        source.seek(first * frame_bytes)
        left = frames * frame_bytes
        while left and (block := source.read(min(left, _BLOCK_FRAMES * frame_bytes))):
            target.write(block)
            left -= len(block)
    return first / audio.sample_rate, frames


def _loudest(raw: Path, audio: RawAudio, frames: int) -> int:
    """Return the first of the `frames` with the most energy, to a quarter of a second."""
    hop = audio.sample_rate // _HOPS_PER_S
    samples = np.memmap(raw, "<f4", mode="r", shape=(audio.samples, audio.channels))
    energies = [
        float(np.square(samples[start : start + hop], dtype=np.float64).sum()) for start in range(0, len(samples), hop)
    ]
    sums = np.concatenate([[0.0], np.cumsum(energies)])
    window = max(1, min(len(energies), frames // hop))
    return int(np.argmax(sums[window:] - sums[:-window])) * hop
