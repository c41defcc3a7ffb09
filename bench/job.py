"""A job as a worker runs it, from an encoded file to published stems, with the native library."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.networks import RATE
from bench.report import OUT
from engine.jobs.entity import new_job_id
from engine.jobs.options import OutputFormat, Quality, StemSeparationOptions
from engine.media.encode import StemEncoder
from engine.separation.models.library import ModelLibrary
from engine.separation.native.library import NativeLibrary
from engine.separation.schedule.batcher import Batcher
from engine.storage.local import LocalStorage
from engine.worker.protocol import AttemptSpec, WorkerConfig
from engine.worker.song_attempt import SongAttempt

ReadSecond = Callable[[int], NDArray[np.float32]]
"""(number of the second) to its samples: `(2, RATE)`."""


def write_song(path: Path, seconds: float, second: ReadSecond) -> None:
    """Encode a song as an mp3, second by second, without holding it in memory."""
    with StemEncoder(path, format="mp3", sample_rate=RATE, tags={}) as encoder:
        for number in range(int(seconds)):
            encoder.write(second(number))


def noise(number: int) -> NDArray[np.float32]:
    """Return a second of noise, seeded by `number`."""
    return np.random.default_rng(number).standard_normal((2, RATE), np.float32) * np.float32(0.1)


def worker_config(folder: Path) -> WorkerConfig:
    return WorkerConfig(
        device="cpu",
        data_dir=str(folder),
        cache_dir=str(folder / "cache"),
        model_memory_bytes=1 << 30,
        heartbeat_s=1,
        decode_timeout_s=120,
        child_memory_bytes=1 << 30,
        input_bytes=50 << 20,
    )


def spec_of(model: str = "mini") -> AttemptSpec:
    """Return an attempt of quality fast on `song.mp3`, to four mp3."""
    options = StemSeparationOptions(model=model, quality=Quality.FAST, output_format=OutputFormat.MP3)
    return AttemptSpec(
        job_id=new_job_id(),
        attempt=1,
        input_key="song.mp3",
        scratch_key="scratch",
        output_key="out",
        options=options,
        title="song",
        seed=0,
        max_duration_s=900,
    )


def attempt_of(folder: Path, library: ModelLibrary, batcher: Batcher, model: str = "mini") -> SongAttempt:
    """Return an attempt of `spec_of(model)` on the files in `folder`."""
    return SongAttempt(
        spec_of(model),
        worker_config(folder),
        LocalStorage(folder),
        library,
        ThreadPoolExecutor(1),
        batcher,
        lambda *_: None,
        lambda: None,
    )


def built_library() -> NativeLibrary | None:
    """Return the native library, built if necessary; None if it cannot be built."""
    native = cached_library()
    if (reason := native.build_now()) is not None:
        print(f"Without the native library: {reason}.")
        return None
    return native


def cached_library() -> NativeLibrary:
    """Return the native library as built before; it is not built now."""
    return NativeLibrary(OUT / "kernels", build_after_s=math.inf)
