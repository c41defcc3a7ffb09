"""Where the time of a whole job goes, and what a short song waits beside a long one; with the embedded model."""

from __future__ import annotations

import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.networks import RATE, Memory, song
from engine.attempt import Attempt
from engine.entity import new_job_id
from engine.media.decode import run_decode_child
from engine.media.encode import StemEncoder
from engine.media.limits import MediaLimits
from engine.options import OutputFormat, Quality, StemSeparationOptions
from engine.protocol import AttemptSpec, WorkerConfig
from engine.separation.batcher import Batcher
from engine.separation.mix import PcmMix
from engine.separation.models import ModelLibrary
from engine.storage import Storage


def stages(seconds: float = 60) -> list[dict[str, Any]]:
    """Wall seconds of each stage alone, then of the job, in which they overlap."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mix = (song(seconds).numpy() * 0.1).clip(-1, 1)
        encoding_s = _encode(folder / "song.mp3", mix)
        began = time.perf_counter()
        decoded = run_decode_child(folder / "song.mp3", folder / "raw", limits=MediaLimits(timeout_s=120))
        decoding_s = time.perf_counter() - began
        library = ModelLibrary(None, folder / "cache", 1 << 30)
        model, batcher = library.load("mini"), Batcher()
        with PcmMix(folder / "raw", channels=decoded.channels, sample_rate=decoded.sample_rate) as pcm:
            began = time.perf_counter()
            batcher.run(model, pcm, Memory(song(1), keep=False), stems=model.sources, shifts=0, overlap=0.1, seed=0)
            separating_s = time.perf_counter() - began
        began = time.perf_counter()
        _attempt(folder, library, batcher).run()
        job_s = time.perf_counter() - began
    return [
        {"stage": "decode", "wall_s": decoding_s},
        {"stage": "separate", "wall_s": separating_s},
        {"stage": "encode one stem", "wall_s": encoding_s},
        {"stage": "the whole job", "wall_s": job_s},
        {"stage": "job / separation", "wall_s": job_s / separating_s},
        {"stage": "job / (decode + one encoding)", "wall_s": job_s / (decoding_s + encoding_s)},
        {"stage": "20 s song beside a 10 min one / alone", "wall_s": fairness()},
    ]


def fairness() -> float:
    """How many times longer a 20 s song takes that comes while a 10 minute one is being separated."""
    with tempfile.TemporaryDirectory() as folder:
        model, batcher = ModelLibrary(None, Path(folder), 1 << 30).load("mini"), Batcher()
    short, long = Memory(song(20), keep=False), Memory(song(600), keep=False)

    def separate(what: Memory, cancelled: threading.Event | None = None) -> float:
        began = time.perf_counter()
        batcher.run(model, what, what, stems=model.sources, shifts=0, overlap=0.25, seed=0, cancelled=cancelled)
        return time.perf_counter() - began

    separate(short)
    alone_s = separate(short)
    enough, under_way = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(separate, long, enough)
        under_way.wait(3)
        beside_s = separate(short)
        enough.set()
        running.exception()
    return beside_s / alone_s


def _encode(path: Path, mix: NDArray[np.float32]) -> float:
    began = time.perf_counter()
    with StemEncoder(path, format="mp3", sample_rate=RATE, tags={}) as encoder:
        for start in range(0, mix.shape[1], RATE):
            encoder.write(mix[:, start : start + RATE])
    return time.perf_counter() - began


def _attempt(folder: Path, library: ModelLibrary, batcher: Batcher) -> Attempt:
    options = StemSeparationOptions(model="mini", quality=Quality.FAST, output_format=OutputFormat.MP3)
    spec = AttemptSpec(
        job_id=new_job_id(),
        attempt=1,
        input_key="song.mp3",
        scratch_key="scratch",
        output_key="out",
        options=options,
        title="song",
        seed=0,
        max_duration_s=600,
    )
    config = WorkerConfig(
        device="cpu",
        data_dir=str(folder),
        cache_dir=str(folder / "cache"),
        model_memory_bytes=1 << 30,
        heartbeat_s=1,
        decode_timeout_s=120,
        child_memory_bytes=1 << 30,
        input_bytes=50 << 20,
    )
    return Attempt(
        spec, config, Storage(folder), library, ThreadPoolExecutor(1), batcher, lambda *_: None, lambda: None
    )
