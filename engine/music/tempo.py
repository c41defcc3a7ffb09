"""The pulse of a song: a frequency at which onsets repeat, found in a tempogram."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.music.onsets import Envelope

SLOWEST_BPM, FASTEST_BPM = 70.0, 180.0
_WINDOW, _HOP, _SIZE = 1024, 512, 8192  # frames; 12 s at 86 frames per second
_CENTRE_BPM, _SPREAD_OCTAVES = 115.0, 0.7


def tempogram(onsets: Envelope) -> NDArray[np.float64]:
    """Return the mean amplitude of the onsets at `_SIZE` / 2 + 1 frequencies, relative to their size."""
    total = np.zeros(_SIZE // 2 + 1)
    shape = np.hanning(min(_WINDOW, len(onsets)))
    for start in range(0, max(1, len(onsets) - len(shape) + 1), _HOP):
        part = onsets[start : start + len(shape)]
        part = (part - part.mean()) * shape
        total += np.square(np.abs(np.fft.rfft(part, _SIZE)))
    return np.asarray(np.sqrt(total / (total.sum() + 1e-12)))


def pulse_bpm(onsets: Envelope, frame_rate: float) -> float:
    """Return the strongest pulse in beats per minute; it may be half or twice the tempo."""
    power = tempogram(onsets)
    bpm = np.exp(np.linspace(np.log(SLOWEST_BPM), np.log(FASTEST_BPM), 1200))
    bins = bpm / 60 / frame_rate * _SIZE
    salience = sum(np.interp(bins * ratio, np.arange(len(power)), power) for ratio in (0.5, 1, 2, 4))
    prior = np.exp(-0.5 * np.square(np.log2(bpm / _CENTRE_BPM) / _SPREAD_OCTAVES))
    return float(bpm[np.argmax(salience * prior)])
