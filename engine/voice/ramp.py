"""Gains that change without a click."""

from __future__ import annotations

import numpy as np

from engine.media.samples import Samples

RAMP_S = 0.03


class Ramp:
    """A gain that reaches its target within 30 ms."""

    def __init__(self, value: float, sample_rate: int) -> None:
        self.target = value
        self._value = value
        self._ramp_samples = round(RAMP_S * sample_rate)
        self._step = 0.0

    @property
    def is_silent(self) -> bool:
        return self._value == 0 and self.target == 0

    def set(self, target: float) -> None:
        """Change the target."""
        if target == self.target:
            return
        self.target = target
        self._step = abs(target - self._value) / self._ramp_samples

    def next(self, count: int) -> Samples | np.float32:
        """Return the gains of the next `count` samples, or one gain for all of them."""
        if self._value == self.target:
            return np.float32(self._value)
        direction = np.sign(self.target - self._value)
        gains = self._value + direction * self._step * np.arange(1, count + 1)
        low, high = min(self._value, self.target), max(self._value, self.target)
        shaped: Samples = np.clip(gains, low, high).astype(np.float32)
        # Rounding must not leave a remainder.
        is_there = abs(float(shaped[-1]) - self.target) < self._step / 2
        self._value = self.target if is_there else float(shaped[-1])
        return shaped
