"""CPU time, memory and late frames of players in voice channels: `python -m bench.voice`.

Each channel has a child process that plays four mp3 stems, read every 20 ms as discord.py does. Then one channel plays
in the real bot, and its packets are timed at the socket of a fake voice server. `--beside` separates songs at the
same time.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from bench.report import Row, table
from bench.voice_packets import measure_packets
from engine.media.encode import StemEncoder
from engine.voice.player import NICENESS
from engine.voice.protocol import FRAME_S
from engine.voice.stream import VoiceStream, start_stream
from tests.fixtures.songs import tune

RATE = 44100
NAMES = ("vocals", "drums", "bass", "other")
_WARM_UP_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--beside", action="store_true", help="separate songs with mini at the same time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-voice-") as folder:
        stems = _write_stems(Path(folder), options.seconds + 10)
        with _separations(Path(folder)) if options.beside else nullcontext():
            rows = [_measure(stems, count, options.seconds) for count in options.channels]
            packets = measure_packets(options.seconds)
    print(table("Players of four mp3 stems", rows))
    print(table("Packets of one channel at the voice server", [packets]))


def _write_stems(folder: Path, seconds: float) -> dict[str, Path]:
    paths = {name: folder / f"{name}.mp3" for name in NAMES}
    for seed, path in enumerate(paths.values()):
        with StemEncoder(path, format="mp3", sample_rate=RATE) as encoder:
            encoder.write(0.2 * tune(round(seconds), seed=seed))
    return paths


@contextmanager
def _separations(folder: Path) -> Iterator[None]:
    """Separate a song of a minute again and again."""
    song = folder / "song.flac"
    with StemEncoder(song, format="flac", sample_rate=RATE) as encoder:
        encoder.write(0.2 * tune(60))
    once = [sys.executable, "-m", "engine", "separate", str(song), "--model", "mini", "--out", str(folder / "out")]
    repeat = ["sh", "-c", 'while "$@"; do :; done', "sh", *once]
    process = subprocess.Popen(repeat, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
        assert process.poll() is None, "the separation failed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _measure(stems: dict[str, Path], count: int, seconds: float) -> Row:
    streams = [
        start_stream(stems, gain_db=0.0, duration_s=seconds + 10, start_s=0.0, tempo=1.0, niceness=NICENESS)
        for _ in range(count)
    ]
    while min(stream.position_s for stream in streams) < _WARM_UP_S:
        _read(streams)
        time.sleep(FRAME_S)
    missed, cpu_s, began = _missed(streams), _cpu_s(streams), time.monotonic()
    late_s = []
    for frame in range(round(seconds / FRAME_S)):
        due = began + (frame + 1) * FRAME_S
        time.sleep(max(0.0, due - time.monotonic()))
        late_s.append(time.monotonic() - due)
        _read(streams)
    row: Row = {
        "channels": count,
        "cpu_percent_each": 100 * (_cpu_s(streams) - cpu_s) / (time.monotonic() - began) / count,
        "memory_mb_each": max(_peak_mb(stream.pid) for stream in streams),
        "missed_frames": _missed(streams) - missed,
        "late_ms_p99": 1000 * sorted(late_s)[int(0.99 * len(late_s))],
    }
    for stream in streams:
        os.kill(stream.pid, 9)
    return row


def _read(streams: Sequence[VoiceStream]) -> None:
    for stream in streams:
        stream.read_frame()


def _missed(streams: Sequence[VoiceStream]) -> int:
    return sum(stream.missed_frames for stream in streams)


def _cpu_s(streams: Sequence[VoiceStream]) -> float:
    ticks = 0
    for stream in streams:
        fields = Path(f"/proc/{stream.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1000


if __name__ == "__main__":
    main()
