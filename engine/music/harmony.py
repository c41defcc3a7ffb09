"""Pitch classes of a song over time, in twelve notes tuned to the song."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.music.chords import NOTES
from engine.music.features import PITCH_BINS, StemFeatures

Floats = NDArray[np.float64]

_THIRDS = PITCH_BINS // NOTES
_NOTE_OF_FIRST_BIN = 9  # A
_LOW, _HIGH = 0, 1
_BASS_SHARE, _VOCALS_SHARE = 0.5, 0.3
_CHANGE_PULSES = 2.0


class Harmony:
    """Pitch classes (frames, 12), from C: of the chords, of the bass and of the voice."""

    def __init__(self, chords: Sequence[StemFeatures], bass: StemFeatures | None, vocals: StemFeatures | None) -> None:
        """`chords`: stems with chords; `bass`: the stem with the bass line."""
        high = _sum([stem.pitches()[:, _HIGH] for stem in chords])
        low = bass.pitches()[:, _LOW] if bass is not None else np.zeros_like(high)
        voice = vocals.pitches()[:, _HIGH] if vocals is not None else np.zeros_like(high)
        count = max(len(high), len(low), len(voice))
        rows = [np.pad(row, ((0, count - len(row)), (0, 0))).astype(np.float64) for row in (high, low, voice)]
        shift = _tuning(np.sum([row.sum(axis=0) for row in rows], axis=0))
        self.chords, self.bass, self.voice = (_notes(row, shift) for row in rows)
        stems = [*chords, *(stem for stem in (bass, vocals) if stem is not None)]
        self.rate = stems[0].pitch_rate if stems else 1.0

    @property
    def is_silent(self) -> bool:
        return not (self.chords.any() or self.bass.any())

    def between(self, times_s: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the mean pitch classes of chords, bass and voice between successive times, (intervals, 12) each."""
        chords, bass, voice = (_means(row, times_s * self.rate) for row in (self.chords, self.bass, self.voice))
        return _above_median(chords), _above_median(bass), _above_median(voice)

    def totals(self, times_s: Floats) -> Floats:
        """Return the strength of the twelve notes between the first and the last time."""
        chords, bass, voice = self.between(times_s)
        return _share(chords) + _BASS_SHARE * _share(bass) + _VOCALS_SHARE * _share(voice)

    def changes(self, parts_s: Floats, pulse_s: float) -> Mapping[str, Floats]:
        """Return at every fourth of `parts_s` how much chords and bass differ before and after; 0 elsewhere."""
        times = parts_s[::4]
        out = {}
        for name, row in (("harmony", self.chords), ("roots", self.bass)):
            before = _spans(row, (times - _CHANGE_PULSES * pulse_s) * self.rate, (times - 0.1 * pulse_s) * self.rate)
            after = _spans(row, (times + 0.1 * pulse_s) * self.rate, (times + _CHANGE_PULSES * pulse_s) * self.rate)
            size = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
            likeness = np.where(size > 1e-6, (before * after).sum(axis=1) / np.maximum(size, 1e-6), 1.0)
            out[name] = np.zeros(len(parts_s))
            out[name][::4] = 1 - likeness
        return out


def _sum(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    if not rows:
        return np.zeros((0, PITCH_BINS), np.float32)
    return np.asarray(np.sum(np.stack(rows), axis=0), np.float32)


def _tuning(total: Floats) -> int:
    """Return the third of a semitone, -1, 0 or 1, around which the pitches lie."""
    return int(np.argmax([total[shift % _THIRDS :: _THIRDS].sum() for shift in (-1, 0, 1)])) - 1


def _notes(bins: Floats, shift: int) -> Floats:
    bins = np.roll(bins, -shift, axis=1)
    wide = bins + 0.5 * (np.roll(bins, 1, axis=1) + np.roll(bins, -1, axis=1))
    return np.roll(wide[:, ::_THIRDS], _NOTE_OF_FIRST_BIN, axis=1)


def _spans(rows: Floats, starts: Floats, stops: Floats) -> Floats:
    """Return the sum of the rows from each start to each stop."""
    sums = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)])
    first, last = (np.clip(np.rint(at).astype(np.int64), 0, len(rows)) for at in (starts, stops))
    return np.asarray(sums[last] - sums[first])


def _means(rows: Floats, edges: Floats) -> Floats:
    count = np.maximum(1, np.diff(np.rint(edges + 0.5)))
    return _spans(rows, edges[:-1] + 0.5, edges[1:] + 0.5) / count[:, None]


def _above_median(rows: Floats) -> Floats:
    return np.maximum(0, rows - np.median(rows, axis=1, keepdims=True))


def _share(rows: Floats) -> Floats:
    return np.asarray(rows.sum(axis=0) / max(float(rows.sum()), 1e-9))
