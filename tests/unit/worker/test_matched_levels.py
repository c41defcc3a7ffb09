"""Equal levels of the sounds that a listener compares."""

from __future__ import annotations

import numpy as np
import pytest

from engine.media.waveform import Peaks
from engine.worker.comparison import matched_gains


def sound(level: float, peak: float | None = None) -> Peaks:
    samples = np.full((2, 1000), level, np.float32)
    samples[:, ::2] *= -1
    if peak is not None:
        samples[0, 0] = peak
    peaks = Peaks(1000)
    peaks.add(samples)
    return peaks


def test_sounds_are_lowered_to_the_quietest_one() -> None:
    assert matched_gains([sound(0.2), sound(0.1), sound(0.15)]) == pytest.approx([0.5, 1, 2 / 3])


def test_no_sound_is_lowered_by_more_than_6_db() -> None:
    assert matched_gains([sound(0.4), sound(0.01), sound(0.0)]) == [0.5, 0.5, 1.0]


def test_sounds_do_not_clip() -> None:
    loud, quiet = sound(0.1, 1.9), sound(0.1)
    gains = matched_gains([loud, quiet])
    assert gains[0] * loud.peak < 1 and gains[0] * loud.level == pytest.approx(gains[1] * quiet.level)


def test_silence_stays_silent() -> None:
    assert matched_gains([sound(0.0), sound(0.0)]) == [1.0, 1.0]
