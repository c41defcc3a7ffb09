"""Stretch parts of a song in processes, which are forked from a process of one thread."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine.media.encode import StemEncoder
from engine.mixes.entities import VersionRequest
from engine.mixes.plan import plan_version
from engine.mixes.process import Song, render_files
from tests.fixtures.songs import tune

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import json, os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
import numpy as np
from engine.errors import StemifyError
from engine.mixes import stretch
from engine.mixes.stretch import Stretcher, most_part_values
from engine.mixes.stretch_processes import StretchProcesses

case, rate = sys.argv[1], 8000
stretch._PART_VALUES = 4 * 16 * rate
key, tempo = 3.0, 0.6
song = (0.1 * np.random.default_rng(0).standard_normal((4, 60 * rate))).astype(np.float32)
blocks = [song[:, start : start + rate] for start in range(0, song.shape[1], rate)]

def make(stretch_parts=None):
    stretcher = Stretcher(4, rate, key=key, tempo=tempo, stretch_parts=stretch_parts)
    return np.concatenate(list(stretcher.stretch(blocks)), axis=1)

processes = StretchProcesses(2, most_part_values())
if case == "killed":
    os.kill(processes._processes[1]._pid, signal.SIGKILL)
with ThreadPoolExecutor(2) as threads:
    try:
        made = make(partial(processes.stretch_parts, threads=threads))
    except StemifyError as error:
        print(json.dumps({"error": error.code}))
        sys.exit()
processes.close()
print(json.dumps({"equal": np.array_equal(made, make()), "samples": made.shape[1]}))
"""


def run(case: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, case], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_parts_in_processes_are_the_same_samples() -> None:
    assert run("equal") == {"equal": True, "samples": 800_000}


def test_longest_version_fits_into_the_memory_of_its_process(tmp_path: Path) -> None:
    seconds, stems = 50, {}
    for seed, name in enumerate(("vocals", "drums", "bass", "other")):
        stems[name] = tmp_path / f"{name}.wav"
        with StemEncoder(stems[name], format="wav", sample_rate=44100) as encoder:
            encoder.write(0.2 * tune(seconds, seed=seed))
    plan = plan_version(VersionRequest(key=12.0, tempo=0.5), tuple(stems), "wav")
    song = Song("Song", "mini", seconds, 0.0, stems)
    assert render_files(song, plan, tmp_path, cpu_s=600).samples == 2 * seconds * 44100


def test_killed_stretch_process_ends_the_mix_with_an_error() -> None:
    assert run("killed") == {"error": "too_heavy"}
