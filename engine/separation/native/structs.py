"""Arguments of the native ops, as the structs of `src/`."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from torch import Tensor

PLAIN, GELU, GLU, ADD = range(4)  # `Ending` in src/convolution.h

_Address, _Count = ctypes.c_void_p, ctypes.c_int64


@dataclass(frozen=True)
class Where:
    """Layout of a result, in floats.

    `pitches`: between bins and between frames. `apart`: between groups of columns. The result is `old +
    scale * product` if given; `scale` has a value for every column of every panel.
    """

    pitches: tuple[int, int]
    apart: int = 0
    old: Tensor | None = None
    scale: Tensor | None = None


class Convolution(ctypes.Structure):
    _fields_ = (
        ("x", _Address), ("bins", _Count), ("frames", _Count), ("channels", _Count), ("bin_pitch", _Count),
        ("frame_pitch", _Count), ("taps_b", _Count), ("stride_b", _Count), ("pad_b", _Count), ("taps_f", _Count),
        ("stride_f", _Count), ("pad_f", _Count), ("out_bins", _Count), ("out_frames", _Count), ("weight", _Address),
        ("bias", _Address), ("parts", _Count), ("panels", _Count), ("ending", _Count), ("far", _Count),
        ("out", _Address),
        ("out_bin_pitch", _Count), ("out_frame_pitch", _Count), ("offsets", _Address), ("widths", _Address),
        ("scale", _Address), ("old", _Address),
    )  # fmt: skip


class FeedForward(ctypes.Structure):
    _fields_ = (
        ("x", _Address), ("rows", _Count), ("channels", _Count), ("hidden", _Count), ("parts", _Count),
        ("first", _Address), ("first_bias", _Address), ("second", _Address), ("second_bias", _Address),
        ("out", _Address), ("scale", _Address), ("old", _Address),
    )  # fmt: skip


class Attention(ctypes.Structure):
    _fields_ = (
        ("query", _Address), ("key", _Address), ("value", _Address), ("queries", _Count), ("keys", _Count),
        ("heads", _Count), ("channels", _Count), ("query_pitch", _Count), ("key_pitch", _Count), ("parts", _Count),
        ("out", _Address), ("out_pitch", _Count),
    )  # fmt: skip


class DConv(ctypes.Structure):
    _fields_ = (
        ("x", _Address), ("rows", _Count), ("frames", _Count), ("channels", _Count), ("taps", _Count),
        ("dilation", _Count), ("hidden", _Count), ("parts", _Count), ("narrow", _Address), ("narrow_bias", _Address),
        ("gain", _Address), ("offset", _Address), ("narrow_eps", ctypes.c_double), ("wide_eps", ctypes.c_double),
        ("wide", _Address), ("gram", _Address), ("centred", _Address), ("means", _Address),
    )  # fmt: skip
