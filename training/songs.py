"""Render training songs: `python -m training.songs`. One command, seeded; what is there already is not made again."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from engine.synth.song import STEMS, compose, level, render
from engine.synth.synthesizer import SAMPLE_RATE, Audio
from training.batches import SCALE

SECONDS = 20.0
HELD_OUT_SEEDS = 10_000_000  # held-out seeds start here, training seeds end before


def numpy_song(seed: int, duration_s: float = SECONDS) -> dict[str, Audio]:
    """Every stem from the project's own synthesizer."""
    rng = np.random.default_rng(seed)
    return balanced(render(compose(rng, duration_s), rng), rng)


def without_rumble(audio: Audio, low_hz: float = 25.0) -> Audio:
    """`audio` `(2, n)` without what nobody hears and no master has: 24 dB an octave below `low_hz`, no phase shift.

    Voices put together from spoken periods, and what a compressor makes of any wave that is not symmetric, have a
    constant part that moves with the notes.
    """
    n = audio.shape[1]
    size = n + SAMPLE_RATE  # the end must not come round to the beginning
    hz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 1e-3)
    passed = np.fft.rfft(audio, size) / np.sqrt(1 + (low_hz / hz) ** 8)
    return np.asarray(np.fft.irfft(passed, size)[:, :n], np.float32)


def balanced(stems: dict[str, Audio], rng: np.random.Generator) -> dict[str, Audio]:
    """Stems at mixed but sane levels, whose sum stays below full scale."""
    stems = {name: level(without_rumble(stem), 0.08 * 10 ** (rng.uniform(-4, 4) / 20)) for name, stem in stems.items()}
    peak = max(float(np.abs(sum(stems.values())).max()), *(float(np.abs(stem).max()) for stem in stems.values()))
    gain = np.float32(min(1.0, 0.95 / (peak + 1e-9)))
    return {name: stem * gain for name, stem in stems.items()}


def packed(stems: dict[str, Audio]) -> NDArray[np.int16]:
    """`(4, 2, samples)` int16 in the order of `STEMS`."""
    return np.stack([np.round(np.clip(stems[name], -1, 1) * SCALE) for name in STEMS]).astype(np.int16)


def make(seed: int, kind: str, out: Path) -> Path:
    """The file of a song, rendered unless it is there.

    `kind`: numpy, midi, band (midi without a singer, shorter), or held-out (midi with unseen sounds).
    """
    path = out / f"{kind}-{seed}.npy"
    if path.exists():
        return path
    if kind == "numpy":
        stems = numpy_song(seed)
    elif kind == "band":
        from training.midi_songs import band_song

        stems = band_song(seed)
    else:
        from training.midi_songs import HELD_OUT, midi_song

        stems = midi_song(seed, sounds=HELD_OUT if kind == "held-out" else None)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, packed(stems))
    part.rename(path)
    return path


def read(path: Path) -> dict[str, Audio]:
    """The stems of a song's file."""
    return {name: stem.astype(np.float32) / np.float32(SCALE) for name, stem in zip(STEMS, np.load(path), strict=True)}


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
