"""Convert decoded frames of any sample format and channel layout to float32 with one or two channels."""

from __future__ import annotations

import math
from typing import Any

import av
import numpy as np
from av.audio.frame import format_dtypes
from numpy.typing import NDArray

Samples = NDArray[np.float32]

_FULL_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0}
_HALF_POWER = math.sqrt(0.5)
_MIDDLE = frozenset({"FC", "BC", "TC", "TFC", "TBC", "BFC"})
_SILENT = frozenset({"LFE", "LFE2"})
_LAYOUT_OF = {3: "2.1", 4: "quad", 5: "5.0(side)", 6: "5.1(side)", 7: "6.1", 8: "7.1"}
_SAFE_PLANES = 7
_LOUDEST = 1e10  # 200 dB over full scale: sums of larger squares overflow


def to_float(frame: av.AudioFrame) -> Samples:
    """Return one frame as float32 (channels, samples), full scale 1.0; NaN and absurdly large values become 0.

    Not for frames for which `needs_packing` is true.
    """
    name = frame.format.name
    data: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, frame.layout.nb_channels).T
    scale = _FULL_SCALE.get(name.removesuffix("p"))
    if scale is None:
        with np.errstate(over="ignore"):  # doubles beyond float32 become infinite, then 0
            result: Samples = data.astype(np.float32, copy=False)
        # NaN makes both comparisons false.
        if not result.size or (result.min() >= -_LOUDEST and result.max() <= _LOUDEST):
            return result
        return np.where(np.abs(result) <= _LOUDEST, result, np.float32(0))
    if scale == 128.0:
        return (data.astype(np.float32) - 128.0) / 128.0
    result = data.astype(np.float32)
    result *= np.float32(1 / scale)
    return result


def needs_packing(frame: av.AudioFrame) -> bool:
    """Return True if PyAV must not read a frame's planes directly.

    PyAV 18 counts planes up to a null pointer; there is none after the eighth, so it reads out of bounds. It does not
    read 64-bit integers at all.
    """
    too_many = frame.format.is_planar and frame.layout.nb_channels > _SAFE_PLANES
    return too_many or frame.format.name not in format_dtypes


def downmix_matrix(layout: av.AudioLayout) -> Samples | None:
    """Return the (2, channels) matrix from `layout` to stereo; None for one or two channels.

    ITU-R BS.775: fronts unchanged, centre and surrounds at -3 dB, no LFE. The sum may exceed full scale; the job then
    lowers all stems by one gain. Channels of unknown position alternate between left and right; only a mix with such
    channels is scaled down.
    """
    count = layout.nb_channels
    if count <= 2:
        return None
    names = [channel.name for channel in layout.channels]
    if count in _LAYOUT_OF and not _is_known(names):
        names = [channel.name for channel in av.AudioLayout(_LAYOUT_OF[count]).channels]
    matrix = np.zeros((2, count), dtype=np.float64)
    for index, name in enumerate(names):
        if name in _SILENT:
            continue
        gain = 1.0 if name in ("FL", "FR", "DL", "DR") else _HALF_POWER
        if not _is_known([name]):
            matrix[index % 2, index] = 1.0
        elif name in _MIDDLE:
            matrix[:, index] = gain
        else:
            matrix[0 if name.endswith("L") or name == "FLC" else 1, index] = gain
    loudest = 1.0 if _is_known(names) else float(matrix.sum(axis=1).max())
    return (matrix / max(loudest, 1.0)).astype(np.float32)


def _is_known(names: list[str]) -> bool:
    return all(name in _MIDDLE or name in _SILENT or name in ("FLC", "FRC") or name[-1:] in "LR" for name in names)


class ChannelMixer:
    """Convert frames of any layout to the channel count of the first: mono stays mono, more than two become two."""

    def __init__(self) -> None:
        self.channels = 0
        self._matrices: dict[str, Samples | None] = {}
        self._packers: dict[tuple[str, str, int], av.AudioResampler] = {}

    def __call__(self, frame: av.AudioFrame) -> Samples:
        """Return `frame` as float32 (1 or 2, samples)."""
        if needs_packing(frame):
            frame = self._packed(frame)
        block, layout = to_float(frame), frame.layout
        if layout.name not in self._matrices:
            self._matrices[layout.name] = downmix_matrix(layout)
        matrix = self._matrices[layout.name]
        if matrix is not None:
            block = matrix @ block
        if not self.channels:
            self.channels = block.shape[0]
        if block.shape[0] == self.channels:
            return block
        if self.channels == 1:
            mono: Samples = (block[:1] + block[1:]) * np.float32(0.5)
            return mono
        return np.repeat(block, 2, axis=0)

    def _packed(self, frame: av.AudioFrame) -> av.AudioFrame:
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if key not in self._packers:
            self._packers[key] = av.AudioResampler(format="flt")
        frame.pts = None
        (packed,) = self._packers[key].resample(frame)
        return packed
