"""Features of a stem for its musical facts: band levels for onsets and pitch classes for harmony.

Stems come block by block. About 4 kB are kept for each second, never the samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Floats = NDArray[np.float32]

HOP_SAMPLES = 512
"""Between frames of band levels, at the stem's rate."""

BAND_EDGES_HZ = (30, 60, 100, 150, 220, 330, 500, 800, 1300, 2200, 3600, 6000, 10000, 16000)
PITCH_BINS = 36
"""Thirds of a semitone in an octave."""

LOW_HZ, MIDDLE_HZ, HIGH_HZ = 38.0, 260.0, 1800.0
_PITCH_RATE_DIVISOR = 8
_PITCH_WINDOW, PITCH_HOP = 2048, 512  # samples at the divided rate
_LEAST_LEVEL = 1e-4


class StemFeatures:
    """Collects the features of one stem. With drums, levels up to 16 kHz are kept."""

    def __init__(self, sample_rate: int, *, has_drums: bool, is_pitched: bool) -> None:
        self.sample_rate = sample_rate
        self.power = 0.0
        self.samples = 0
        self._is_pitched = is_pitched
        divisor = 1 if has_drums else 4
        self._divisor = divisor
        self._window = np.hanning(1024 // divisor).astype(np.float32)
        self._hop = HOP_SAMPLES // divisor
        self._edges = _band_edges(sample_rate / divisor, len(self._window))
        self._waiting: Samples = np.zeros(0, np.float32)  # at the full rate, not a whole number of divided samples
        self._tail: Samples = np.zeros(len(self._window) // 2, np.float32)  # the first frame is centred on sample 0
        self._pitch_tail: Samples = np.zeros(_PITCH_WINDOW // 2, np.float32)
        self._bands: list[Floats] = []
        self._pitches: list[Floats] = []

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / HOP_SAMPLES

    @property
    def pitch_rate(self) -> float:
        return self.sample_rate / (_PITCH_RATE_DIVISOR * PITCH_HOP)

    @property
    def level(self) -> float:
        """Root mean square."""
        return float(np.sqrt(self.power / max(self.samples, 1)))

    def add(self, block: Samples) -> None:
        """Add the next float32 (channels, samples)."""
        mono = np.concatenate([self._waiting, block.mean(axis=0, dtype=np.float32)])
        self.samples += block.shape[1]
        whole = len(mono) - len(mono) % _PITCH_RATE_DIVISOR
        mono, self._waiting = mono[:whole], mono[whole:]
        self._add(mono)

    def finish(self) -> None:
        """Complete the last frames."""
        self._add(np.zeros(_PITCH_WINDOW // 2 * _PITCH_RATE_DIVISOR, np.float32))

    def bands(self) -> Floats:
        """Return the power in each band, (frames, bands)."""
        return np.concatenate(self._bands) if self._bands else np.zeros((0, len(self._edges) - 1), np.float32)

    def pitches(self) -> Floats:
        """Return the strength of low and high pitch classes, (frames, 2, PITCH_BINS)."""
        return np.concatenate(self._pitches) if self._pitches else np.zeros((0, 2, PITCH_BINS), np.float32)

    def _add(self, mono: Samples) -> None:
        self.power += float(np.einsum("i,i->", mono, mono))
        fast = _divide(mono, self._divisor)
        frames, self._tail = _frames(np.concatenate([self._tail, fast]), len(self._window), self._hop)
        if len(frames):
            power = np.square(np.abs(np.fft.rfft(frames * self._window).astype(np.complex64)))
            self._bands.append(np.add.reduceat(power, self._edges[:-1], axis=1)[:, : len(self._edges) - 1])
        if self._is_pitched:
            slow = _divide(fast, _PITCH_RATE_DIVISOR // self._divisor)
            frames, self._pitch_tail = _frames(np.concatenate([self._pitch_tail, slow]), _PITCH_WINDOW, PITCH_HOP)
            if len(frames):
                self._pitches.append(_pitch_classes(frames, self.sample_rate / _PITCH_RATE_DIVISOR))


def _divide(mono: Samples, divisor: int) -> Samples:
    return mono if divisor == 1 else mono.reshape(-1, divisor).mean(axis=1)


def _frames(signal: Samples, window: int, hop: int) -> tuple[Samples, Samples]:
    """Return all whole frames (frames, window), and the samples that the next frame begins with."""
    count = max(0, (len(signal) - window) // hop + 1)
    if not count:
        return np.zeros((0, window), np.float32), signal
    return np.lib.stride_tricks.sliding_window_view(signal, window)[::hop], signal[count * hop :]


def _band_edges(rate: float, window: int) -> NDArray[np.int64]:
    edges = np.rint(np.array(BAND_EDGES_HZ) * window / rate).astype(np.int64)
    edges = np.unique(np.maximum(edges, 1))
    return edges[edges <= window // 2]


def _pitch_classes(frames: Samples, rate: float) -> Floats:
    """Return the amplitudes of spectral peaks by pitch class, (frames, 2, PITCH_BINS), low and high."""
    size = frames.shape[1]
    first, last = int(LOW_HZ * size / rate), int(HIGH_HZ * size / rate) + 2
    spectrum = np.fft.rfft(frames * np.hanning(size).astype(np.float32))[:, first - 1 : last + 1]
    level = np.abs(spectrum).astype(np.float32) / size
    middle = level[:, 1:-1]
    frame, peak = np.nonzero((middle > level[:, :-2]) & (middle >= level[:, 2:]) & (middle > _LEAST_LEVEL))
    if not len(frame):
        return np.zeros((len(frames), 2, PITCH_BINS), np.float32)
    left, centre, right = (np.log(level[frame, peak + step]) for step in (0, 1, 2))
    shift = 0.5 * (left - right) / (left - 2 * centre + right - 1e-9)
    hz = (peak + first + shift) * (rate / size)
    pitch = np.rint(PITCH_BINS * np.log2(hz / 440.0)).astype(np.int64) % PITCH_BINS  # 0 is A
    strength = np.sqrt(level[frame, peak + 1])
    out = np.zeros(len(frames) * 2 * PITCH_BINS)
    for row, inside in enumerate((hz < MIDDLE_HZ, hz > MIDDLE_HZ / 2)):
        index = (frame[inside] * 2 + row) * PITCH_BINS + pitch[inside]
        out += np.bincount(index, strength[inside], minlength=len(out))
    return out.reshape(len(frames), 2, PITCH_BINS).astype(np.float32)
