"""Which pulses are beats, and which beats begin a bar, from what happens in each sixteenth of a bar.

Bars have four beats. A hypothesis is a length of the beat (half a pulse, a pulse or two) and a place of the first bar;
the bar that looks most like those of popular music wins: the kick drum, the bass and new harmonies on the first beat,
the snare on the second and fourth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BEATS_PER_BAR = 4
STEPS_PER_BAR = 16
PARTS_PER_PULSE = 8
"""Thirty-seconds of a bar whose beat is the pulse."""

_CENTRE_BPM = 115.0
_TEMPO_WEIGHT = 2.5  # per squared octave from the centre
_SHARPNESS = 3.0
# How much a row's strength at a step, relative to its mean, speaks for a bar that begins at step 0.
WEIGHTS: Mapping[str, Mapping[int, float]] = {
    "kick": {0: 0.6, 4: -0.35, 8: 0.1, 12: -0.35, 2: -0.1, 6: 0.1, 10: 0.15, 14: -0.15},
    "snare": {0: -0.3, 4: 0.35, 8: -0.05, 12: 0.25},
    "hat": {0: 0.1, 2: -0.1, 4: 0.2, 6: -0.1, 8: 0.1, 10: -0.1, 12: 0.2, 14: -0.1},
    "bass": {0: 0.3, 4: -0.1, 8: -0.05, 12: -0.1},
    "chords": {0: 0.3, 4: -0.1, 8: -0.1, 12: -0.1},
    "harmony": {0: 0.8, 2: 0.2, 14: 0.2, 4: -0.3, 6: -0.3, 8: -0.5, 10: -0.3, 12: -0.3},
    "roots": {0: 0.7, 2: 0.2, 14: 0.2, 4: -0.3, 6: -0.3, 8: -0.5, 10: -0.3, 12: -0.3},
}


@dataclass(frozen=True)
class Meter:
    """`parts_per_step` is 1, 2 or 4 parts of a pulse for a sixteenth of the bar; `first_part` is where a bar begins.

    The probabilities are those of this length of the beat, of these beats, and of these bars.
    """

    parts_per_step: int
    first_part: int
    tempo_probability: float = 0.0
    beat_probability: float = 0.0
    bar_probability: float = 0.0


def find_meter(rows: Mapping[str, Floats], pulse_bpm: float) -> Meter:
    """Return the best meter for strengths sampled `PARTS_PER_PULSE` times in each pulse."""
    scores: dict[tuple[int, int], float] = {}
    for step in (1, 2, 4):
        bpm = pulse_bpm * 2 / step
        prior = -_TEMPO_WEIGHT * float(np.square(np.log2(bpm / _CENTRE_BPM)))
        for first in range(0, STEPS_PER_BAR * step, 2 * step):
            score = bar_score(rows, step, first)
            if score is not None:
                scores[step, first] = score + prior
    if not scores:
        return Meter(2, 0)
    step, first = best = max(scores, key=lambda key: scores[key])
    weight = {key: float(np.exp(_SHARPNESS * (score - scores[best]))) for key, score in scores.items()}
    total = sum(weight.values())
    same_tempo = {key: value for key, value in weight.items() if key[0] == step}
    same_beats = [value for key, value in same_tempo.items() if (key[1] - first) % (4 * step) == 0]
    return Meter(step, first, sum(same_tempo.values()) / total, sum(same_beats) / total, 1 / total)


def bar_score(rows: Mapping[str, Floats], step: int, first: int) -> float | None:
    """Return how well the bars that begin at part `first` fit `WEIGHTS`; None without a whole bar."""
    total = 0.0
    for name, row in rows.items():
        bars = (len(row) - first) // (STEPS_PER_BAR * step)
        if bars < 1:
            return None
        steps = row[first : first + bars * STEPS_PER_BAR * step].reshape(bars, STEPS_PER_BAR, step)
        # A change of harmony is found near its time, an onset at it.
        profile = (steps.sum(axis=2) if name in ("harmony", "roots") else steps[:, :, 0]).mean(axis=0)
        mean = float(profile.mean())
        if mean > 1e-9:
            total += sum(weight * (profile[at] / mean - 1) for at, weight in WEIGHTS[name].items()) / 4
    return total
