"""The musical facts of a song from the features of its stems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.music.chords import NOTES, Chord, likelihood, likely_chords
from engine.music.features import StemFeatures
from engine.music.harmony import Harmony
from engine.music.key import Key, find_key
from engine.music.onsets import onsets_of, sum_onsets
from engine.music.rhythm import Rhythm, find_rhythm

LEAST_CONFIDENCE = 0.5
"""Less certain facts are left out."""

_SHORTEST_S = 6.0
_AUDIBLE = 10 ** (-60 / 20)
_AUDIBLE_SHARE = 10 ** (-35 / 20)  # of the loudest stem
_TONAL, _TONAL_STEP = 0.38, 0.03  # probability of the chords of a song with harmony
_SPAN_S = 0.5  # of a chord without beats


@dataclass(frozen=True)
class Facts:
    """What is certain enough; None otherwise. Chords cover the song without gaps."""

    rhythm: Rhythm | None = None
    key: Key | None = None
    chords: tuple[Chord, ...] | None = None
    chords_confidence: float = 0.0


def find_facts(stems: Mapping[str, StemFeatures], duration_s: float) -> Facts:
    """Return the facts of stems by name: those of Demucs, or `vocals` and `instrumental`."""
    if duration_s < _SHORTEST_S:
        return Facts()
    loudest = max((stem.level for stem in stems.values()), default=0.0)
    audible = {name: stem for name, stem in stems.items() if stem.level > max(_AUDIBLE, loudest * _AUDIBLE_SHARE)}
    whole = audible.get("instrumental")
    chords = [audible[name] for name in ("other", "guitar", "piano", "instrumental") if name in audible]
    harmony = Harmony(chords, audible.get("bass", whole), audible.get("vocals"))
    rhythm = _rhythm(audible, harmony, duration_s)
    if harmony.is_silent:
        return Facts(rhythm)
    beats = _chord_edges(rhythm, duration_s)
    upper, bass, _ = harmony.between(beats)
    likely = likelihood(upper, bass)
    first = rhythm.first_downbeat + (1 if beats[0] < rhythm.beats_s[0] else 0) if rhythm else 0
    path, _ = likely_chords(likely, first)
    key = find_key(harmony.totals(beats), path)
    path, confidence = likely_chords(likely, first, (key.tonic, key.is_minor))
    key = replace(key, confidence=key.confidence / (1 + float(np.exp((_TONAL - confidence) / _TONAL_STEP))))
    return Facts(
        rhythm,
        key if key.confidence >= LEAST_CONFIDENCE else None,
        _spans(beats, path) if confidence >= LEAST_CONFIDENCE else None,
        confidence,
    )


def _rhythm(stems: Mapping[str, StemFeatures], harmony: Harmony, duration_s: float) -> Rhythm | None:
    onsets = {name: onsets_of(stem.bands()) for name, stem in stems.items() if name != "vocals"}
    if not onsets:
        return None
    beaten = onsets.get("drums") or onsets.get("instrumental") or sum_onsets(list(onsets.values()))
    silent = np.zeros(len(beaten.low))
    played = [onsets[name].all for name in ("other", "guitar", "piano") if name in onsets]
    rhythm = find_rhythm(
        beaten,
        onsets["bass"].all if "bass" in onsets else silent,
        np.sum(played, axis=0) if played else silent,
        harmony,
        next(iter(stems.values())).frame_rate,
        duration_s,
    )
    return rhythm if rhythm is not None and rhythm.tempo_confidence >= LEAST_CONFIDENCE else None


def _chord_edges(rhythm: Rhythm | None, duration_s: float) -> NDArray[np.float64]:
    """Return the beginnings of all chords, and the end of the song."""
    if rhythm is None:
        return np.append(np.arange(0, duration_s - _SPAN_S / 2, _SPAN_S), duration_s)
    beats = rhythm.beats_s
    inner = beats[(beats > _SPAN_S / 4) & (beats < duration_s - _SPAN_S / 4)]
    return np.concatenate([[0.0], inner, [duration_s]])


def _spans(edges: NDArray[np.float64], path: NDArray[np.int64]) -> tuple[Chord, ...]:
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    return tuple(
        Chord(float(edges[start]), float(edges[stop]), int(path[start] % NOTES), bool(path[start] >= NOTES))
        for start, stop in zip(starts, [*starts[1:], len(path)], strict=True)
    )
