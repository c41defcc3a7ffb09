"""Major and minor chords, one for each beat, by the most probable path (Viterbi) through the beats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NOTES = 12
MAJOR, MINOR = 0, 1
_THIRD = (4, 3)
_OVERTONES = ((0, 1.0), (7, 0.35), (4, 0.15))  # semitones above the octaves of a note, and their strength
_CHORD_WEIGHT, _ROOT_WEIGHT, _FIFTH_WEIGHT = 9.0, 3.0, 0.5
_CHANGE_COST = {"bar": 1.0, "half": 2.0, "beat": 3.0}
_KEY_WEIGHT = 1.5


@dataclass(frozen=True)
class Chord:
    """A chord and its time. `root` is a pitch class, 0 is C."""

    start_s: float
    end_s: float
    root: int
    is_minor: bool


def templates() -> Floats:
    """Return the pitch classes of the 24 chords with their overtones, (24, 12), of length 1; minor chords come last."""
    rows = np.zeros((2 * NOTES, NOTES))
    for mode in (MAJOR, MINOR):
        for root in range(NOTES):
            for interval in (0, _THIRD[mode], 7):
                for overtone, strength in _OVERTONES:
                    rows[mode * NOTES + root, (root + interval + overtone) % NOTES] += strength
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def likelihood(harmony: Floats, bass: Floats) -> Floats:
    """Return the logarithmic likelihood of the 24 chords, (beats, 24), from pitch classes (beats, 12)."""
    score = _CHORD_WEIGHT * _unit(harmony) @ templates().T
    low = _unit(bass)
    return np.asarray(score + np.tile(_ROOT_WEIGHT * low + _FIFTH_WEIGHT * np.roll(low, -7, axis=1), 2))


def likely_chords(
    score: Floats, first_beat: int, key: tuple[int, bool] | None = None
) -> tuple[NDArray[np.int64], float]:
    """Return the number of the chord in each beat, and the mean probability of these chords.

    `first_beat` is the first that begins a bar; chords of the `key` (tonic, is minor) are preferred.
    """
    if key is not None:
        score = score + _KEY_WEIGHT * _chords_of(*key)
    count, states = score.shape
    best = score[0].copy()
    came_from = np.zeros((count, states), np.int64)
    for beat in range(1, count):
        place = (beat - first_beat) % 4
        cost = _CHANGE_COST["bar" if place == 0 else "half" if place == 2 else "beat"]
        top = int(np.argmax(best))
        changes = best[top] - cost > best
        came_from[beat] = np.where(changes, top, np.arange(states))
        best = np.where(changes, best[top] - cost, best) + score[beat]
    path = np.zeros(count, np.int64)
    path[-1] = int(np.argmax(best))
    for beat in range(count - 1, 0, -1):
        path[beat - 1] = came_from[beat, path[beat]]
    probability = np.exp(score - score.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    return path, float(probability[np.arange(count), path].mean())


def _chords_of(tonic: int, is_minor: bool) -> Floats:
    """Return 1 for the chords of a key, (24,); in minor keys with both sixths, and the major dominant."""
    major = [(0, MAJOR), (2, MINOR), (4, MINOR), (5, MAJOR), (7, MAJOR), (9, MINOR)]
    minor = [
        (0, MINOR),
        (3, MAJOR),
        (5, MINOR),
        (5, MAJOR),
        (7, MINOR),
        (7, MAJOR),
        (8, MAJOR),
        (10, MAJOR),
        (2, MINOR),
    ]
    out = np.zeros(2 * NOTES)
    for step, mode in minor if is_minor else major:
        out[mode * NOTES + (tonic + step) % NOTES] = 1
    return out


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))
