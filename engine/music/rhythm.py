"""Tempo, beats and bars from the features of the stems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.music.beats import straighten, track_pulses
from engine.music.harmony import Harmony
from engine.music.meter import BEATS_PER_BAR, PARTS_PER_PULSE, find_meter
from engine.music.onsets import Envelope, Onsets
from engine.music.tempo import pulse_bpm

Times = NDArray[np.float64]

_CLEAR, _CLARITY_STEP = 0.13, 0.025
_LEAST_PULSES = 8


@dataclass(frozen=True)
class Rhythm:
    """Beats of a song; `first_downbeat` is the number of the first beat that begins a bar."""

    tempo_bpm: float
    beats_s: Times
    first_downbeat: int
    tempo_confidence: float
    beat_confidence: float
    bar_confidence: float

    @property
    def downbeats_s(self) -> Times:
        return self.beats_s[self.first_downbeat :: BEATS_PER_BAR]


def find_rhythm(
    drums: Onsets, bass: Envelope, chords: Envelope, harmony: Harmony, frame_rate: float, duration_s: float
) -> Rhythm | None:
    """Return the rhythm of a song from onset strengths at `frame_rate`; None if there is no pulse.

    `drums` may be the onsets of the other stems if there are no drums.
    """
    onsets = drums.all
    if len(onsets) < _LEAST_PULSES or not onsets.any():
        return None
    bpm = pulse_bpm(onsets, frame_rate)
    pulses, _ = straighten(track_pulses(onsets, frame_rate, bpm), duration_s)
    if len(pulses) < _LEAST_PULSES:
        return None
    period_s = float(np.median(np.diff(pulses)))
    parts = np.interp(np.arange(len(pulses) * PARTS_PER_PULSE) / PARTS_PER_PULSE, np.arange(len(pulses)), pulses)
    strengths = {"kick": drums.low, "snare": drums.middle, "hat": drums.high, "bass": bass, "chords": chords}
    rows: Mapping[str, Times] = {
        **{name: _strength_at(envelope, parts * frame_rate) for name, envelope in strengths.items()},
        **harmony.changes(parts, period_s),
    }
    meter = find_meter(rows, 60 / period_s)
    beat_parts = BEATS_PER_BAR * meter.parts_per_step
    first = meter.first_part % beat_parts
    numbers = np.arange(first, len(parts), beat_parts)
    beats = parts[numbers]
    beats = beats[beats < duration_s]
    clarity = _clarity(onsets, period_s * frame_rate)
    clear = 1 / (1 + float(np.exp((_CLEAR - clarity) / _CLARITY_STEP)))
    return Rhythm(
        tempo_bpm=60 / period_s * PARTS_PER_PULSE / beat_parts,
        beats_s=beats,
        first_downbeat=(meter.first_part - first) // beat_parts % BEATS_PER_BAR,
        tempo_confidence=clear * meter.tempo_probability,
        beat_confidence=clear * meter.beat_probability,
        bar_confidence=clear * meter.bar_probability,
    )


def _strength_at(envelope: Envelope, frames: Times) -> Times:
    if not len(envelope):
        return np.zeros(len(frames))
    near = np.convolve(envelope, (0.25, 0.5, 1.0, 0.5, 0.25), "same")
    return near[np.clip(np.rint(frames).astype(np.int64), 0, len(near) - 1)]


def _clarity(onsets: Envelope, period_frames: float) -> float:
    """Return how similar the onsets are to those one, two or four pulses later, 0 to 1."""
    smooth = np.convolve(onsets, (0.25, 0.5, 1.0, 0.5, 0.25), "same")
    smooth = smooth - smooth.mean()
    energy = float(smooth @ smooth)
    best = 0.0
    for pulses in (1, 2, 4):
        for lag in {int(period_frames * pulses), int(period_frames * pulses) + 1}:
            if 0 < lag < len(smooth) // 2 and energy > 0:
                overlap = len(smooth) - lag
                best = max(best, float(smooth[lag:] @ smooth[:-lag]) / energy * len(smooth) / overlap)
    return best
