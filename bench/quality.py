"""Compare the CPU time of the quality estimate with that of the separation: `python -m bench.quality`."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch

from bench.networks import RATE, MemoryMix, song
from bench.report import table
from engine.quality.features import StemMeter
from engine.separation.models.library import ModelLibrary
from engine.separation.plan.overlap_add import StemBuffer
from engine.separation.schedule.batcher import Batcher

STEMS = ("drums", "bass", "other", "vocals")
BLOCK_S = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="audio per run (180)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = measure(args.seconds, args.rounds)
    print(table("Embedded model, quality fast (the cheapest separation)", rows))


def measure(seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Time the separation, the agreement of its passes (which it does not include) and the features."""
    with tempfile.TemporaryDirectory() as folder:
        model = ModelLibrary(None, Path(folder), 1 << 30).load("mini")
    batcher, mix = Batcher(), MemoryMix(song(seconds), keep=False)
    noise = np.random.default_rng(0).normal(0, 0.1, (len(STEMS) + 1, 2, BLOCK_S * RATE)).astype(np.float32)
    stems = dict(zip(STEMS, noise, strict=False))
    spent_s: dict[str, list[float]] = {"separation": [], "agreement": [], "features": []}
    for _ in range(rounds):
        with measure_agreement() as agreement:
            began = time.process_time()
            batcher.run(model, mix, mix, stems=STEMS, shifts=0, overlap=0.1, seed=0)
            spent_s["separation"].append(time.process_time() - began - agreement[0])
        spent_s["agreement"].append(agreement[0])
        began = time.process_time()
        meter = StemMeter(STEMS)
        for _ in range(int(seconds / BLOCK_S)):
            meter.add(noise[-1], stems)
        meter.finish()
        meter.features({})
        spent_s["features"].append(time.process_time() - began)
    base = median(spent_s["separation"])
    return [
        {"part": name, "cpu_ms_a_second": 1000 * median(each) / seconds, "of_separation_%": 100 * median(each) / base}
        for name, each in spent_s.items()
    ]


@contextlib.contextmanager
def measure_agreement() -> Iterator[list[float]]:
    """Measure the time in the two methods that only the agreement needs."""
    total = [0.0]

    def timing(method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            began = time.thread_time()
            method(*arguments)
            total[0] += time.thread_time() - began

        return call

    with (
        mock.patch.object(StemBuffer, "_note_spread", timing(StemBuffer._note_spread)),
        mock.patch.object(StemBuffer, "_measure", timing(StemBuffer._measure)),
    ):
        yield total


if __name__ == "__main__":
    main()
