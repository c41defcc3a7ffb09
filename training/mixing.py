"""Stems of a training song: levels, sum, file format, and the songs of the project's own synthesizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.synth.song import STEMS, compose, level, render
from engine.synth.synthesizer import SAMPLE_RATE, Audio
from training.batches import SCALE

SECONDS = 20.0


def numpy_song(seed: int, duration_s: float = SECONDS) -> dict[str, Audio]:
    """Render a song with the project's own synthesizer."""
    rng = np.random.default_rng(seed)
    return balanced(render(compose(rng, duration_s), rng), rng)


def without_rumble(audio: Audio, low_hz: float = 25.0) -> Audio:
    """Cut inaudible lows from `audio` `(2, n)`: 24 dB per octave below `low_hz`, without a phase shift.

    Voices assembled from spoken periods, and compressed asymmetric waves, have an offset that moves with the notes.
    """
    n = audio.shape[1]
    size = n + SAMPLE_RATE  # the padding keeps the end from wrapping around to the beginning
    hz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 1e-3)
    filtered = np.fft.rfft(audio, size) / np.sqrt(1 + (low_hz / hz) ** 8)
    return np.asarray(np.fft.irfft(filtered, size)[:, :n], np.float32)


def balanced(stems: dict[str, Audio], rng: np.random.Generator) -> dict[str, Audio]:
    """Return the stems at random but plausible levels; their sum stays below full scale."""
    stems = {name: level(without_rumble(stem), 0.08 * 10 ** (rng.uniform(-4, 4) / 20)) for name, stem in stems.items()}
    peak = max(float(np.abs(sum(stems.values())).max()), *(float(np.abs(stem).max()) for stem in stems.values()))
    gain = np.float32(min(1.0, 0.95 / (peak + 1e-9)))
    return {name: stem * gain for name, stem in stems.items()}


def pack(stems: dict[str, Audio]) -> NDArray[np.int16]:
    """Return the stems as one int16 array `(4, 2, samples)`, in the order of `STEMS`."""
    return np.stack([np.round(np.clip(stems[name], -1, 1) * SCALE) for name in STEMS]).astype(np.int16)


def read(path: Path) -> dict[str, Audio]:
    """Read the stems from a song's file."""
    return {name: stem.astype(np.float32) / np.float32(SCALE) for name, stem in zip(STEMS, np.load(path), strict=True)}
