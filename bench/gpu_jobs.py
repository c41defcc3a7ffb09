"""Whole jobs on a GPU: from an mp3 to four published mp3 files, several at a time, as a worker runs them."""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.job import attempt_of, worker_config, write_song
from bench.networks import RATE, song, write_htdemucs, write_tiny
from bench.report import Row
from engine.separation.models.library import ModelLibrary
from engine.separation.ops.device import use_threads
from engine.separation.schedule.batcher import Batcher
from engine.worker.process import attempt_threads


def time_jobs(device: str, songs: int, seconds: float, at_once: int) -> Row:
    """Time a queue of songs, `at_once` of them at a time, after one that warms everything up."""
    mix = (song(seconds).numpy() * 0.1).clip(-1, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (write_tiny if device == "cpu" else write_htdemucs)(folder / "models", "htdemucs")
        write_song(folder / "song.mp3", seconds, lambda number: mix[:, number * RATE :][:, :RATE])
        library = ModelLibrary(folder / "models", folder / "cache", 1 << 30)
        batcher = Batcher(device)

        def run(number: int) -> None:
            own = folder / str(number)
            own.mkdir()
            shutil.copy(folder / "song.mp3", own)
            attempt_of(own, library, batcher, "htdemucs").run()

        threads = attempt_threads(worker_config(folder).model_copy(update={"device": device}))
        with ThreadPoolExecutor(at_once, initializer=use_threads, initargs=(threads,)) as pool:
            pool.submit(run, -1).result()
            began, cpu_began = time.perf_counter(), _cpu_s()
            list(pool.map(run, range(songs)))
            wall_s, cpu_s = time.perf_counter() - began, _cpu_s() - cpu_began
        batcher.close()
    audio_s = songs * seconds
    return {
        "songs": songs,
        "at_once": at_once,
        "wall_s": wall_s,
        "x_realtime": audio_s / wall_s,
        "cores_used": cpu_s / wall_s,
        "cpu_s_per_minute": 60 * cpu_s / audio_s,
    }


def _cpu_s() -> float:
    """Return the CPU seconds of this process and its ended children, which decode."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
