"""Time of each stage of a job, start of a worker, and fairness of a short song beside a long one."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.job import attempt_of, spec_of, worker_config, write_song
from bench.networks import RATE, MemoryMix, song, write_htdemucs, write_tiny
from engine.errors import Cancelled
from engine.jobs.job import Stage
from engine.media.limits import MediaLimits
from engine.media.sandbox import decode_in_sandbox
from engine.pool.handle import PoolLimits
from engine.pool.pool import WorkerPool
from engine.separation.audio.pcm import PcmMix
from engine.separation.models.library import ModelLibrary
from engine.separation.native.library import NativeLibrary
from engine.separation.schedule.batcher import Batcher
from engine.worker.malloc import tune_malloc

Row = dict[str, Any]


def one_job(seconds: float, rounds: int, native: NativeLibrary | None) -> list[Row]:
    """Return the wall seconds of each stage alone and of the job, in which they overlap (size of htdemucs)."""
    figures: dict[str, list[float]] = {}
    tune_malloc()  # as a worker does
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mix = (song(seconds).numpy() * 0.1).clip(-1, 1)
        encoding_s = _encode(folder, mix)
        write_htdemucs(folder / "models", "htdemucs")
        library = ModelLibrary(folder / "models", folder / "cache", 1 << 30)
        model, batcher = library.load("htdemucs"), Batcher(native=native)
        for number in range(rounds + 1):
            began = time.perf_counter()
            decoded = decode_in_sandbox(folder / "song.mp3", folder / "raw", limits=MediaLimits(timeout_s=120))
            decoding_s = time.perf_counter() - began
            with PcmMix(folder / "raw", channels=decoded.channels, sample_rate=decoded.sample_rate) as pcm:
                began = time.perf_counter()
                batcher.run(
                    model, pcm, MemoryMix(song(1), keep=False), stems=model.sources, shifts=0, overlap=0.1, seed=0
                )
                separating_s = time.perf_counter() - began
            began = time.perf_counter()
            attempt_of(folder, library, batcher, "htdemucs").run()
            job_s = time.perf_counter() - began
            if number:  # the first round warms everything up
                for stage, wall_s in (("decode", decoding_s), ("separate", separating_s), ("the whole job", job_s)):
                    figures.setdefault(stage, []).append(wall_s)
        batcher.close()
    rows: list[Row] = [{"stage": stage, "wall_s": median(walls)} for stage, walls in figures.items()]
    rows.insert(2, {"stage": "encode one stem", "wall_s": encoding_s})
    return rows


def cheap_job(seconds: float, native: NativeLibrary | None) -> list[Row]:
    """Time a long job with a very cheap network, so that reading and writing dominate."""
    tune_malloc()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny(folder / "models", "htdemucs")
        mix = (song(60).numpy() * 0.1).clip(-1, 1)
        write_song(folder / "song.mp3", seconds, lambda number: mix[:, number % 60 * RATE :][:, :RATE])
        began = time.perf_counter()
        decode_in_sandbox(folder / "song.mp3", folder / "raw", limits=MediaLimits(timeout_s=600))
        decoding_s = time.perf_counter() - began
        library = ModelLibrary(folder / "models", folder / "cache", 1 << 30)
        batcher = Batcher(native=native)
        began, cpu = time.perf_counter(), time.process_time()
        done = attempt_of(folder, library, batcher, "htdemucs").run()
        job_s, job_cpu_s = time.perf_counter() - began, time.process_time() - cpu
        assert done.result.file_size
        batcher.close()
        encoding_s = _encode(folder, np.tile(mix, (1, int(seconds // 60))))
    return [
        {"stage": "decode", "wall_s": decoding_s},
        {"stage": "encode one stem", "wall_s": encoding_s},
        {"stage": "the whole job", "wall_s": job_s},
        {"stage": f"its CPU seconds on {os.cpu_count()} cores", "wall_s": job_cpu_s / (os.cpu_count() or 1)},
    ]


def ready_s(rounds: int = 3) -> float:
    """Return the seconds from starting a worker process to its `ready` message."""

    async def start(folder: Path) -> float:
        began = time.perf_counter()
        async with _ready_pool(folder):
            return time.perf_counter() - began

    with tempfile.TemporaryDirectory() as folder:
        return median(asyncio.run(start(Path(folder))) for _ in range(rounds))


def cancel_s(rounds: int = 3) -> float:
    """Return the seconds from cancelling a song, while it is being separated, until its worker is free."""

    async def cancel(folder: Path) -> float:
        separating = asyncio.Event()

        def on_progress(stage: Stage, fraction: float) -> None:
            if stage is Stage.SEPARATING:
                separating.set()

        async with _ready_pool(folder) as pool:
            attempt = asyncio.create_task(pool.run(spec_of(), timeout_s=600, on_progress=on_progress))
            await separating.wait()
            began = time.perf_counter()
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)
            assert attempt.cancelled(), "the song ended too early"
            return time.perf_counter() - began

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _encode(folder, (song(300).numpy() * 0.1).clip(-1, 1))
        return median(asyncio.run(cancel(folder)) for _ in range(rounds))


@asynccontextmanager
async def _ready_pool(folder: Path) -> AsyncIterator[WorkerPool]:
    """Run a pool of one worker."""
    limits = PoolLimits(
        attempts_per_worker=1, heartbeat_timeout_s=30, stall_timeout_s=60, start_timeout_s=60, cancel_grace_s=5
    )
    pool = WorkerPool([worker_config(folder)], limits)
    await pool.start()
    try:
        assert await pool.wait_ready(limits.start_timeout_s), "the worker did not start"
        yield pool
    finally:
        await pool.stop()


def fairness() -> float:
    """Return how many times longer a 20 s song takes while a 10 minute one is being separated."""
    with tempfile.TemporaryDirectory() as folder:
        model, batcher = ModelLibrary(None, Path(folder), 1 << 30).load("mini"), Batcher()
    short, long = MemoryMix(song(20), keep=False), MemoryMix(song(600), keep=False)

    def separate(mix: MemoryMix, cancelled: threading.Event | None = None) -> float:
        began = time.perf_counter()
        batcher.run(model, mix, mix, stems=model.sources, shifts=0, overlap=0.25, seed=0, cancelled=cancelled)
        return time.perf_counter() - began

    separate(short)
    alone_s = separate(short)
    stop, started = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(separate, long, stop)
        started.wait(3)
        beside_s = separate(short)
        stop.set()
        assert isinstance(running.exception(), Cancelled), "the long song ended too early"
    batcher.close()
    return beside_s / alone_s


def _encode(folder: Path, mix: NDArray[np.float32]) -> float:
    """Encode `song.mp3`; return the seconds."""
    began = time.perf_counter()
    write_song(folder / "song.mp3", mix.shape[1] / RATE, lambda number: mix[:, number * RATE :][:, :RATE])
    return time.perf_counter() - began
