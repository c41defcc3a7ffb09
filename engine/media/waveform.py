"""The waveform of a stem: peaks for the player, and a picture of all stems for the result card."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from engine.media.samples import Samples

BINS = 2000
SILENCE_PEAK = 10 ** (-60 / 20)
"""A bin, or a stem, whose peak is below -60 dBFS counts as silent."""

COLOURS = {
    "vocals": "#ff6b9a",
    "drums": "#ffb347",
    "bass": "#a78bfa",
    "other": "#2dd4bf",
    "guitar": "#f87171",
    "piano": "#60a5fa",
    "instrumental": "#4ade80",
}
_COLOUR_OF_UNKNOWN = "#94a3b8"
_PANEL, _LANE, _LINE = "#14161c", "#1c1f27", "#3a3f4b"
_TEXT, _FAINT = "#f4f5f7", "#9aa3b2"

_SCALE = 2  # drawn at twice the size and reduced, for smooth edges
_WIDTH, _ROW, _GAP, _MARGIN, _LABEL = 1000, 84, 8, 16, 150
_BAR, _BAR_STEP = 3, 5
_SHARE_OF_LANE = 0.86

Values = NDArray[np.float32]


class Peaks:
    """Lowest and highest value and mean power of a stem in each of `bins` equal parts, collected block by block."""

    def __init__(self, samples: int, bins: int = BINS) -> None:
        """Start empty; `samples` is the length of the stem."""
        self.samples = samples
        self.bins = max(1, min(bins, samples))
        self._edges = np.arange(self.bins + 1, dtype=np.int64) * samples // self.bins
        self.low: NDArray[np.float32] = np.zeros(self.bins, dtype=np.float32)
        self.high: NDArray[np.float32] = np.zeros(self.bins, dtype=np.float32)
        self._power: NDArray[np.float64] = np.zeros(self.bins, dtype=np.float64)
        self._at = 0

    def add(self, block: Samples) -> None:
        """Add the next float32 (channels, samples); samples beyond the stem's length are ignored."""
        block = block[:, : self.samples - self._at]
        count = block.shape[1]
        if not count:
            return
        first = int(np.searchsorted(self._edges, self._at, side="right")) - 1
        last = int(np.searchsorted(self._edges, self._at + count, side="left"))
        starts = np.maximum(self._edges[first:last] - self._at, 0)
        here = slice(first, last)
        self.low[here] = np.minimum(self.low[here], np.minimum.reduceat(block.min(axis=0), starts))
        self.high[here] = np.maximum(self.high[here], np.maximum.reduceat(block.max(axis=0), starts))
        self._power[here] += np.add.reduceat(np.square(block, dtype=np.float64).mean(axis=0), starts)
        self._at += count

    @property
    def rms(self) -> NDArray[np.float32]:
        """Root mean square of each bin."""
        return np.sqrt(self._power / np.maximum(np.diff(self._edges), 1)).astype(np.float32)

    @property
    def peak(self) -> float:
        return float(max(self.high.max(), -self.low.min()))

    @property
    def level(self) -> float:
        """Root mean square of the whole stem."""
        return float(np.sqrt(self._power.sum() / max(self.samples, 1)))

    @property
    def silence_share(self) -> float:
        """The share of bins that are silent, 0 to 1."""
        return float(np.mean(np.maximum(self.high, -self.low) < SILENCE_PEAK))

    def as_json(self, gain: float = 1.0) -> dict[str, Any]:
        """Return the player's data with `gain` applied: {"bins": n, "low": [-127…0], "high": [0…127]}."""
        return {
            "bins": self.bins,
            "low": np.rint(np.maximum(self.low * gain, -1) * 127).astype(int).tolist(),
            "high": np.rint(np.minimum(self.high * gain, 1) * 127).astype(int).tolist(),
        }


def render_waveform(stems: Mapping[str, Peaks], path: Path, *, gain: float = 1.0) -> None:
    """Write a PNG with one row per stem; all rows share one scale. It is readable on Discord's dark and light themes.

    `gain` is the factor applied to the stems' files; it is included in the printed peaks.
    """
    height = 2 * _MARGIN + len(stems) * _ROW + max(0, len(stems) - 1) * _GAP
    image = Image.new("RGBA", (_WIDTH * _SCALE, height * _SCALE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((0, 0, _WIDTH * _SCALE - 1, height * _SCALE - 1), radius=20 * _SCALE, fill=_PANEL)
    loudest = max((stem.peak for stem in stems.values()), default=0.0)
    for index, (name, peaks) in enumerate(stems.items()):
        _draw_row(pen, name, peaks, (_MARGIN + index * (_ROW + _GAP)) * _SCALE, loudest, gain)
    image.reduce(_SCALE).save(path, "PNG")


def _draw_row(pen: ImageDraw.ImageDraw, name: str, peaks: Peaks, top: int, loudest: float, gain: float) -> None:
    colour = COLOURS.get(name, _COLOUR_OF_UNKNOWN)
    bottom, middle = top + _ROW * _SCALE, top + _ROW * _SCALE // 2
    left, right = (_MARGIN + _LABEL) * _SCALE, (_WIDTH - _MARGIN) * _SCALE
    silent = peaks.peak * gain < SILENCE_PEAK
    pen.rounded_rectangle((left, top, right, bottom), radius=10 * _SCALE, fill=_LANE)
    pen.rounded_rectangle(
        (_MARGIN * _SCALE, top + 14 * _SCALE, (_MARGIN + 5) * _SCALE, bottom - 14 * _SCALE),
        radius=3 * _SCALE,
        fill=_LINE if silent else colour,
    )
    text_left = (_MARGIN + 18) * _SCALE
    pen.text((text_left, middle - 2 * _SCALE), name, font=_font(20), fill=_FAINT if silent else _TEXT, anchor="ls")
    label = "silent" if silent else f"peak {20 * math.log10(peaks.peak * gain):+.1f} dB"
    pen.text((text_left, middle + 20 * _SCALE), label, font=_font(14), fill=_FAINT, anchor="ls")
    count = (_WIDTH - _MARGIN - _LABEL - _MARGIN - 20) // _BAR_STEP
    begin = left + (right - left - ((count - 1) * _BAR_STEP + _BAR) * _SCALE) // 2
    reach = _ROW * _SCALE / 2 * _SHARE_OF_LANE
    tall = _columns(np.maximum(peaks.high, -peaks.low), count, np.max) / max(loudest, 1e-9)
    full = _columns(peaks.rms, count, _root_mean_square) / max(loudest, 1e-9)
    for number in range(count):
        x = begin + number * _BAR_STEP * _SCALE
        _bar(pen, x, middle, 0.0 if silent else float(tall[number]) * reach, _LINE if silent else _mix(colour, _LANE))
        if not silent:
            _bar(pen, x, middle, float(full[number]) * reach, colour)


def _bar(pen: ImageDraw.ImageDraw, x: int, middle: int, reach: float, colour: str) -> None:
    reach = max(reach, _BAR * _SCALE / 2)
    box = (x, middle - reach, x + _BAR * _SCALE - 1, middle + reach)
    pen.rounded_rectangle(box, radius=_BAR * _SCALE / 2, fill=colour)


def _columns(values: Values, count: int, reduce: Callable[[Values], float]) -> Values:
    """Reduce `values` to `count` columns with `reduce`; if there are fewer values, they are repeated."""
    edges = (np.arange(count + 1) * len(values) // count).tolist()
    return np.array([reduce(values[low : max(high, low + 1)]) for low, high in pairwise(edges)], dtype=np.float32)


def _root_mean_square(values: Values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _mix(colour: str, ground: str, share: float = 0.45) -> str:
    def parts(text: str) -> list[int]:
        return [int(text[at : at + 2], 16) for at in (1, 3, 5)]

    mixed = (round(a * share + b * (1 - share)) for a, b in zip(parts(colour), parts(ground), strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _SCALE)
