"""Features of a mix and its stems for the quality estimate, computed block by block.

Per stem, x is the mix, s the stem and n = x − s the rest, each as a short-time spectrum. Every feature is a ratio of
energies, and so independent of the song's gain. Memory use is independent of the song's length. The samples are those
of the separation, before they are encoded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.quality.shape import ShapeMeter

Block = NDArray[np.float32]
"""(2, samples)"""
Features = dict[str, float]

WINDOW = 2048
BINS = 744  # up to 16 kHz, since many files have nothing above
FRAMES = 16  # analysed at once
WHOLE_GROUPS = 80  # the first minute at 44.1 kHz; after it every second group of frames is enough
LIMIT_DB = 40.0  # larger ratios carry no information
HEARD_DB = -35.0  # a stem below this level, relative to the mix, is silent
SILENT_POWER = 1e-9  # of the mix, per sample (-90 dBFS); a mix below it is silent
_PART_OF = {"guitar": "other", "piano": "other"}
"""The estimate knows four stems; of six, these belong to `other`."""


def ratio_db(over: float, under: float) -> float:
    """Return a ratio of energies in dB, limited to ±`LIMIT_DB`."""
    if not over > 0:
        return -LIMIT_DB
    if not under > 0:
        return LIMIT_DB
    return float(np.clip(10 * (np.log10(over) - np.log10(under)), -LIMIT_DB, LIMIT_DB))


class StemMeter:
    """Measure blocks of the mix and the stems; `features` returns the result."""

    def __init__(self, stems: Sequence[str]) -> None:
        self.stems = tuple(dict.fromkeys(_PART_OF.get(name, name) for name in stems))
        self._rows = {name: 1 + i for i, name in enumerate(self.stems)}
        self._window = np.hanning(WINDOW).astype(np.float32)
        # The mix, then the stems: the frames that are analysed together.
        self._group = np.zeros((1 + len(self.stems), 2, FRAMES * WINDOW), np.float32)
        self._filled = 0
        self._groups = 0
        self._last: NDArray[np.float32] | None = None  # the last frame's magnitudes
        self._sums: dict[str, NDArray[np.float64]] = {}  # of the mix: (1,); of the stems: (stems,)
        self._frames = 0
        self._shape = ShapeMeter()

    def add(self, mix: Block, stems: Mapping[str, Block]) -> None:
        """Add the next final block of the mix and all stems, at the song's level."""
        taken = 0
        while taken < mix.shape[1]:
            here = slice(taken, taken + self._group.shape[2] - self._filled)
            self._fill(mix[:, here], {name: block[:, here] for name, block in stems.items()})
            taken = here.stop

    def finish(self) -> None:
        """Analyse the remaining samples, padded with silence."""
        frames = -(-self._filled // WINDOW)
        self._group[..., self._filled :] = 0
        if frames:
            self._analyse(self._group[..., : frames * WINDOW])
        self._filled = 0

    def _fill(self, mix: Block, stems: Mapping[str, Block]) -> None:
        """Collect samples into groups of frames that do not depend on the block size."""
        here = slice(self._filled, self._filled + mix.shape[1])
        self._group[0, :, here] = mix
        started = set()
        for name, block in stems.items():
            row = self._rows.get(_PART_OF.get(name, name))
            if row in started:
                self._group[row, :, here] += block
            elif row is not None:
                self._group[row, :, here] = block
                started.add(row)
        self._filled = here.stop
        if self._filled == self._group.shape[2]:
            if self._groups < WHOLE_GROUPS or self._groups % 2:
                self._analyse(self._group)
            else:
                self._last = None
            self._groups += 1
            self._filled = 0

    def _analyse(self, signals: NDArray[np.float32]) -> None:
        if not np.isfinite(signals.sum()):
            signals = np.nan_to_num(signals, posinf=0, neginf=0)
        windows = signals.reshape(*signals.shape[:2], -1, WINDOW) * self._window
        spectra = torch.fft.rfft(torch.from_numpy(windows)).numpy()[..., :BINS]  # a third of the time of numpy's
        real, imaginary = np.ascontiguousarray(spectra.real), np.ascontiguousarray(spectra.imag)
        power = _product(real, real) + _product(imaginary, imaginary)  # (signals, frames, bins)
        mix, own = power[:1], power[1:]
        with_mix = _product(real[1:], real[:1]) + _product(imaginary[1:], imaginary[:1])  # the real part of ⟨s, x⟩
        rest = np.maximum(mix + own - 2 * with_mix, 0)
        magnitude = np.sqrt(own)
        before = magnitude[:, :1] if self._last is None else self._last
        self._last = magnitude[:, -1:].copy()
        self._frames += own.shape[1]
        change = np.abs(np.diff(magnitude, axis=1, prepend=before))
        self._shape.add(own, magnitude, change)
        for name, value in (
            ("mix", mix),
            ("own", own),
            ("with mix", with_mix),
            ("blurred", own * rest / (own + rest + np.float32(1e-30))),
            ("magnitude", magnitude),
            ("change", change),
        ):
            total = value.reshape(len(value), -1).sum(1).astype(np.float64)
            self._sums[name] = self._sums.get(name, 0) + total

    def shapes(self, names: Collection[str]) -> dict[str, Features]:
        """Return the shapes of these stems; `likeness` is the mean likeness to the others of them."""
        rows = [(name, row) for row, name in enumerate(self.stems) if name in names]
        if not rows:
            return {}
        features, likeness = self._shape.features(), self._shape.likeness()
        result: dict[str, Features] = {}
        for name, row in rows:
            others = [float(likeness[row, other]) for _, other in rows if other != row]
            result[name] = features[row] | ({"likeness": sum(others) / len(others)} if others else {})
        return result

    def features(
        self, agreement_db: Mapping[str, float | None], residual_db: float | None = None
    ) -> dict[str, Features]:
        """Return the features of each audible stem.

        `agreement_db` is the agreement of the separation's passes. `residual_db` is the level of the mix minus all
        stems, relative to the mix; None if stems are missing or add up exactly.
        """
        if not self._frames:
            return {}
        mix = float(self._sums["mix"][0])
        # The window leaves 3/8 of the energy; a real signal has half of it in these bins; there are two channels.
        samples_power = mix / (self._frames * WINDOW * WINDOW * 2 * 3 / 16)
        result: dict[str, Features] = {}
        for row, name in enumerate(self.stems):
            own, with_mix, blurred, magnitude, change = (
                float(self._sums[sum_][row]) for sum_ in ("own", "with mix", "blurred", "magnitude", "change")
            )
            level_db = ratio_db(own, mix)
            if samples_power <= SILENT_POWER or level_db < HEARD_DB:
                continue
            cross = with_mix - own  # ⟨s, n⟩: for a least-squares estimate, the energy of its error
            result[name] = {
                "level": level_db,
                "distortion": ratio_db(own + max(cross, 0.0), cross),  # for such an estimate, its SDR
                "added": float(
                    np.clip(cross / own, -1, 1)
                ),  # negative: the stem contains something that is not in the mix
                "blurred": ratio_db(own, blurred),  # the SDR of the best mask if s and n were exact
                "steadiness": ratio_db(magnitude, change),
            }
            if (agreement := agreement_db.get(name)) is not None:
                result[name]["agreement"] = float(np.clip(agreement, -LIMIT_DB, LIMIT_DB))
            if residual_db is not None:
                result[name]["residual"] = float(np.clip(level_db - residual_db, -LIMIT_DB, LIMIT_DB))
        return result


def _product(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply and sum over the two channels: (signals, 2, frames, bins) → (signals, frames, bins)."""
    product = a[:, 0] * b[:, 0]
    product += a[:, 1] * b[:, 1]
    return product
