"""CPU and wall time of mixes and versions of a four-minute song: `python -m bench.mixes`."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.report import Row, table
from engine.media.encode import StemEncoder
from engine.mixes.entities import MixRequest, VersionRequest
from engine.mixes.plan import MixPlan, plan_mix, plan_version
from engine.mixes.process import Song, render_files

SONG_S = 240
RATE = 44100
STEMS = ("vocals", "drums", "bass", "other")
CPU_LIMIT_S = 600.0


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-mixes-") as folder:
        song = make_song(Path(folder))
        version = VersionRequest(key=-2.0, tempo=0.9)
        plans = {
            "mix, no drums, mp3": plan_mix(MixRequest(gains={"drums": 0.0}), STEMS, SONG_S),
            "mix, other key and tempo, mp3": plan_mix(MixRequest(key=-2.0, tempo=0.9), STEMS, SONG_S),
            "version, wav": plan_version(version, STEMS, "wav"),
            "version, mp3": plan_version(version, STEMS, "mp3"),
        }
        rows = [measure(name, song, plan, Path(folder)) for name, plan in plans.items()]
    print(table(f"Mixes of a song of {SONG_S} s with four mp3 stems", rows))


def make_song(folder: Path) -> Song:
    """Write four stems of noise in bursts, which cost as much to decode and encode as music."""
    rng = np.random.default_rng(0)
    bursts = np.exp(-6.0 * (np.arange(SONG_S * RATE, dtype=np.float32) / RATE % 0.5))
    stems = {}
    for name in STEMS:
        stems[name] = folder / f"{name}.mp3"
        with StemEncoder(stems[name], format="mp3", sample_rate=RATE) as encoder:
            encoder.write((0.05 * bursts * rng.standard_normal((2, bursts.size))).astype(np.float32))
    return Song("Song", "mini", SONG_S, 0.0, stems)


def measure(name: str, song: Song, plan: MixPlan, folder: Path) -> Row:
    """Render a plan once, in its child process at our priority."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        before, started_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        render_files(song, plan, Path(out), cpu_s=CPU_LIMIT_S)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"what": name, "wall_s": time.monotonic() - started_s, "cpu_s": cpu_s, "peak_mib": after.ru_maxrss / 1024}


if __name__ == "__main__":
    main()
