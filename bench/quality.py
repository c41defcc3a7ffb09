"""`python -m bench.quality`: what the quality estimate costs beside the separation, in CPU seconds of this process."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.networks import RATE, Memory, song
from bench.report import table
from engine.quality.features import StemMeter
from engine.separation.batcher import Batcher
from engine.separation.models import ModelLibrary

STEMS = ("drums", "bass", "other", "vocals")
BLOCK_S = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=24, help="of audio a run (24)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(
        table("Embedded model, quality fast: the cheapest separation there is", measure(chosen.seconds, chosen.rounds))
    )


def measure(seconds: float, rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        model = ModelLibrary(None, Path(folder), 1 << 30).load("mini")
    batcher, mix = Batcher(), song(seconds)
    noise = np.random.default_rng(0).normal(0, 0.1, (len(STEMS) + 1, 2, BLOCK_S * RATE)).astype(np.float32)
    stems = dict(zip(STEMS, noise, strict=False))

    def separation() -> None:
        what = Memory(mix, keep=False)
        batcher.run(model, what, what, stems=STEMS, shifts=0, overlap=0.1, seed=0)

    def meter() -> None:
        one = StemMeter(STEMS)
        for _ in range(int(seconds / BLOCK_S)):
            one.add(noise[-1], stems)
        one.finish()
        one.features({})

    works: dict[str, Callable[[], None]] = {"separation": separation, "features": meter}
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.process_time()
            work()
            taken[name].append(time.process_time() - began)
    base = median(taken["separation"])
    return [
        {"what": name, "cpu_ms_a_second": 1000 * median(each) / seconds, "of_separation_%": 100 * median(each) / base}
        for name, each in taken.items()
    ]


if __name__ == "__main__":
    main()
