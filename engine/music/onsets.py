"""Onset strength: how much louder each frame is than the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.music.features import Floats

Envelope = NDArray[np.float64]

_LOW_BANDS, _HIGH_BANDS = 4, 9  # bands below 220 Hz, and above 2.2 kHz
_FLOOR = 1e-2  # of a band's loud frames
_FLOOR_OF_LOUDEST = 1e-6


@dataclass(frozen=True)
class Onsets:
    """Onset strength of a stem by register, each scaled to a mean square of 1 unless it is silent."""

    low: Envelope
    middle: Envelope
    high: Envelope

    @property
    def all(self) -> Envelope:
        return self.low + self.middle + self.high


def onsets_of(bands: Floats) -> Onsets:
    """Return the onset strength of band levels (frames, bands)."""
    count = len(bands)
    if not count or not bands.any():
        return Onsets(*(np.zeros(count) for _ in range(3)))
    loud = np.percentile(bands, 98, axis=0)
    floor = np.maximum(loud * _FLOOR, max(float(loud.max()) * _FLOOR_OF_LOUDEST, 1e-12))
    level = np.log1p(bands / floor)
    rise = np.maximum(0, np.diff(level, axis=0, prepend=level[:1]))
    return Onsets(
        *(
            _scaled(rise[:, here].sum(axis=1))
            for here in (slice(None, _LOW_BANDS), slice(_LOW_BANDS, _HIGH_BANDS), slice(_HIGH_BANDS, None))
        )
    )


def _scaled(envelope: NDArray[np.floating]) -> Envelope:
    size = float(np.sqrt(np.mean(np.square(envelope)))) if len(envelope) else 0.0
    return np.asarray(envelope / size if size > 1e-9 else envelope * 0, np.float64)


def sum_onsets(stems: Sequence[Onsets]) -> Onsets:
    """Return the onsets of several stems together."""
    return Onsets(*(np.sum(rows, axis=0) for rows in zip(*((o.low, o.middle, o.high) for o in stems), strict=True)))
