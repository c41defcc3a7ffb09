"""Use lameenc's optimised LAME instead of the unoptimised one in PyAV's wheels.

lameenc, a dependency of demucs, encodes the same audio for a third of the work. It exports LAME's functions, and on
Linux a library in the global scope takes precedence over the one inside FFmpeg. If a function is missing, PyAV's own
LAME is used.
"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec

FFMPEG_SYMBOLS = (
    "lame_close",
    "lame_encode_buffer",
    "lame_encode_buffer_float",
    "lame_encode_buffer_int",
    "lame_encode_flush",
    "lame_get_encoder_delay",
    "lame_get_framesize",
    "lame_init",
    "lame_init_params",
    "lame_set_VBR",
    "lame_set_VBR_mean_bitrate_kbps",
    "lame_set_VBR_quality",
    "lame_set_bWriteVbrTag",
    "lame_set_brate",
    "lame_set_copyright",
    "lame_set_disable_reservoir",
    "lame_set_in_samplerate",
    "lame_set_lowpassfreq",
    "lame_set_mode",
    "lame_set_num_channels",
    "lame_set_original",
    "lame_set_out_samplerate",
    "lame_set_quality",
)
"""All LAME functions that FFmpeg calls. They must come from one library, which defines the structures they share."""


def preload_lame() -> bool:
    """Load lameenc's LAME for FFmpeg; return True if FFmpeg will use it.

    Call it before PyAV is imported: later it does nothing, because functions of two libraries would mix.
    """
    spec = find_spec("lameenc") if sys.platform == "linux" and "av" not in sys.modules else None
    if spec is None or spec.origin is None:
        return False
    try:
        library = ctypes.CDLL(spec.origin)
        if not all(hasattr(library, name) for name in FFMPEG_SYMBOLS):
            return False
        ctypes.CDLL(spec.origin, ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
