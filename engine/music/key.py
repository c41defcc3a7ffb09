"""The key: the scale from the pitch classes, its tonic from the chords."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.music.chords import MAJOR, MINOR, NOTES

Floats = NDArray[np.float64]

_SCALE_WEIGHT = 40.0
# Steps of a scale in semitones, the third of its tonic, and how much it is preferred. Dorian songs count as minor.
_SCALES = (
    ((0, 2, 4, 5, 7, 9, 11), MAJOR, 0.3),
    ((0, 2, 3, 5, 7, 8, 10), MINOR, 0.0),
    ((0, 2, 3, 5, 7, 9, 10), MINOR, 0.0),
)
# How much a song's share of chords on each degree of a scale speaks for its tonic, and a first and last chord on it.
_DEGREES = (2.2, -2.0, -0.5, 2.4, 4.0, 1.8, -3.0)
_FIRST, _LAST = 2.5, 1.5


@dataclass(frozen=True)
class Key:
    """`tonic` is a pitch class, 0 is C; `confidence` is the probability of this key."""

    tonic: int
    is_minor: bool
    confidence: float


def find_key(pitch_classes: Floats, chords: NDArray[np.int64]) -> Key:
    """Return the key of the strengths of 12 pitch classes, and of the chord in each beat (numbers of `chords`)."""
    share = pitch_classes / max(float(pitch_classes.sum()), 1e-9)
    roots = np.bincount(chords % NOTES, minlength=NOTES) / max(1, len(chords))
    scores = np.full((NOTES, 2), -np.inf)
    for steps, mode, preference in _SCALES:
        for tonic in range(NOTES):
            notes = [(tonic + step) % NOTES for step in steps]
            score = _SCALE_WEIGHT * float(share[notes].sum()) + preference
            score += float(roots[notes] @ np.array(_DEGREES))
            if len(chords):
                home = mode * NOTES + tonic
                score += _FIRST * (chords[0] == home) + _LAST * (chords[-1] == home)
            scores[tonic, mode] = max(scores[tonic, mode], score)
    weight = np.exp(scores - scores.max())
    tonic, mode = divmod(int(np.argmax(scores)), 2)
    return Key(tonic, mode == MINOR, float(1 / weight.sum()))
