"""A LAME that was compiled with optimisation in place of PyAV's own, which was not.

The mp3 encoder in PyAV's wheels is LAME's code without the compiler's optimisation. lameenc, which demucs depends on,
has it with: the same sound for a third of the work (17 songs had the same error; of the one whose samples were compared
they were the same). It shows its functions to the loader, and on Linux a library in the global scope is asked before
FFmpeg's own. Where something is missing, PyAV's own is used.
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
"""All that FFmpeg calls. They must come from one library: each has its own idea of what lies behind a pointer."""


def preload_lame() -> bool:
    """To be called before PyAV is imported; afterwards functions of two libraries could come together, so that nothing
    is done. Whether FFmpeg now finds the faster one."""
    found = find_spec("lameenc") if sys.platform == "linux" and "av" not in sys.modules else None
    if found is None or found.origin is None:
        return False
    try:
        offered = ctypes.CDLL(found.origin)
        if not all(hasattr(offered, name) for name in FFMPEG_SYMBOLS):
            return False
        ctypes.CDLL(found.origin, ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
