"""FFmpeg uses the faster LAME completely or not at all, with the same accuracy."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from engine.media.decode import decode
from engine.media.lame import FFMPEG_SYMBOLS
from tests.fixtures.songs import Samples

SAMPLES = 60_000
PROGRAM = """
import numpy as np
from engine.media.encode import StemEncoder

mix = np.frombuffer(sys.stdin.buffer.read(), np.float32).reshape(2, -1)
with StemEncoder(Path(sys.argv[1]), format="mp3", sample_rate=44100) as encoder:
    encoder.write(mix)
"""


def error_db(mix: Samples, path: Path, beginning: str) -> float:
    """Return the error of an mp3 that a new process encodes after running `beginning`."""
    program = f"import sys\nfrom pathlib import Path\n{beginning}\n{PROGRAM}"
    subprocess.run([sys.executable, "-c", program, str(path)], input=mix.tobytes(), check=True, timeout=60)
    decode(path, path.with_suffix(".raw"), max_duration_s=60)
    actual = np.fromfile(path.with_suffix(".raw"), "<f4").reshape(-1, 2).T
    assert actual.shape == mix.shape
    return 10 * math.log10(np.square(actual - mix).sum() / np.square(mix).sum())


@pytest.mark.skipif(sys.platform != "linux", reason="FFmpeg keeps its own LAME elsewhere")
def test_preloaded_lame_is_as_accurate_as_pyav_own(tmp_path: Path) -> None:
    mix = np.random.default_rng(0).standard_normal((2, SAMPLES), np.float32)
    mix *= np.linspace(0, 0.2, SAMPLES, dtype=np.float32)
    mix[1, : SAMPLES // 2] = mix[0, : SAMPLES // 2]
    ask = "from engine.media.lame import preload_lame\nassert preload_lame() is"
    lent = error_db(mix, tmp_path / "lent.mp3", f"{ask} True")
    own = error_db(mix, tmp_path / "own.mp3", f"import av\n{ask} False")
    assert lent == pytest.approx(own, abs=0.05)


def test_symbol_list_covers_all_lame_calls_of_ffmpeg() -> None:
    libraries = list(Path(av.__file__).parents[1].glob("av.libs/libavcodec-*.so*"))
    if not libraries:
        pytest.skip("PyAV uses the system's FFmpeg")
    names = re.findall(rb"(?<=\0)lame_\w+(?=\0)", libraries[0].read_bytes())
    assert {name.decode() for name in names} == set(FFMPEG_SYMBOLS)
