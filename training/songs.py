"""Render training songs from their seeds: `python -m training.songs`. Existing files are kept."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.progress import Progress

from training.midi_songs import HELD_OUT, band_song, midi_song
from training.mixing import numpy_song, pack

HELD_OUT_SEEDS = 10_000_000  # held-out seeds start here, training seeds end before


def make(seed: int, kind: str, out: Path) -> Path:
    """Render a song unless its file exists; return the path.

    `kind`: numpy, midi, band (midi without a singer, shorter), or held-out (midi with unseen sounds).
    """
    path = out / f"{kind}-{seed}.npy"
    if path.exists():
        return path
    if kind == "numpy":
        stems = numpy_song(seed)
    elif kind == "band":
        stems = band_song(seed)
    else:
        stems = midi_song(seed, sounds=HELD_OUT if kind == "held-out" else None)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, pack(stems))
    part.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("training/data/train"))
    parser.add_argument("--kind", choices=("numpy", "midi", "band"), default="numpy")
    parser.add_argument("--songs", type=int, default=240)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if args.first_seed + args.songs > HELD_OUT_SEEDS:
        parser.error(f"training seeds end at {HELD_OUT_SEEDS}")
    args.out.mkdir(parents=True, exist_ok=True)
    seeds = range(args.first_seed, args.first_seed + args.songs)
    with Progress() as progress, ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        task = progress.add_task(f"{args.kind} songs", total=args.songs)
        for _ in pool.map(partial(make, kind=args.kind, out=args.out), seeds):
            progress.advance(task)


if __name__ == "__main__":
    main()
