"""One picture of all stems, for the result card: readable on Discord's dark and light themes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from engine.media.waveform import SILENCE_PEAK, Peaks

Values = NDArray[np.float32]

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

_SCALE = 2  # everything is drawn twice as large and brought down, for smooth edges
_WIDTH, _ROW, _GAP, _MARGIN, _LABEL = 1000, 84, 8, 16, 150
_BAR, _BAR_STEP = 3, 5
_SHARE_OF_LANE = 0.86


def render_waveform(stems: Mapping[str, Peaks], path: Path, *, gain: float = 1.0) -> None:
    """Write a PNG with one row a stem, in the order given. All rows share one scale, so that loud looks loud.

    `gain` is what the stems' files were multiplied with; it counts in the peaks that are told.
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
    told = "silent" if silent else f"peak {20 * math.log10(peaks.peak * gain):+.1f} dB"
    pen.text((text_left, middle + 20 * _SCALE), told, font=_font(14), fill=_FAINT, anchor="ls")
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


def _columns(values: Values, count: int, of: Callable[[Values], float]) -> Values:
    """`values` in `count` columns, each the `of` (a reduction) of its share; fewer values are repeated."""
    edges = (np.arange(count + 1) * len(values) // count).tolist()
    return np.array([of(values[low : max(high, low + 1)]) for low, high in pairwise(edges)], dtype=np.float32)


def _root_mean_square(values: Values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _mix(colour: str, ground: str, share: float = 0.45) -> str:
    def parts(text: str) -> list[int]:
        return [int(text[at : at + 2], 16) for at in (1, 3, 5)]

    mixed = (round(a * share + b * (1 - share)) for a, b in zip(parts(colour), parts(ground), strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _SCALE)
