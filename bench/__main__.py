"""`python -m bench`: Stemify against stock Demucs on this machine's CPU, in one run. See bench/README.md."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.networks import SOURCES, htdemucs, ours, snr_db, song, stock
from bench.report import OUT, machine, save, table
from bench.stages import stages
from engine.separation.batcher import Batcher
from engine.separation.kernels import Kernels, key_of, recipe_of
from engine.separation.loaded import LoadedModel


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of audio a run (60)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, interleaved (3)")
    parser.add_argument(
        "--memory", type=float, nargs="*", default=[60, 180, 600], help="song lengths in s (60 180 600)"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled core out")
    chosen = parser.parse_args()

    speed = measure_speed(chosen.seconds, chosen.rounds, compiled=not chosen.no_compile)
    print(
        table(f"Separation, htdemucs' size, {chosen.seconds:g} s of audio, shifts 0, overlap 0.25", speed), flush=True
    )
    memory = measure_memory(chosen.memory)
    print(table("Peak resident memory by length of the song (embedded model)", memory), flush=True)
    whole = stages()
    print(table("One job of 60 s, embedded model, to four mp3", whole), flush=True)
    measured = {"machine": machine(), "speed": speed, "memory": memory, "stages": whole, "seconds": chosen.seconds}
    bars = [(f"{row['who']}, CPU s", row["cpu_s"]) for row in speed]
    for path in save("cpu", measured, bars, "s"):
        print(path)


def measure_speed(seconds: float, rounds: int, *, compiled: bool) -> list[dict[str, Any]]:
    network, mix = htdemucs(), song(seconds)
    model = LoadedModel.of(network, "htdemucs")
    eager = Batcher()
    ways: dict[str, Callable[[], Tensor]] = {
        "stock": lambda: stock(network, mix),
        "ours, eager": lambda: ours(eager, model, mix),
    }
    if compiled and (kernels := built_kernels(network)) is not None:
        fast = Batcher(kernels=kernels)
        ours(fast, model, song(8))  # takes the kernels up
        ways["ours, compiled"] = lambda: ours(fast, model, mix)
    figures: dict[str, list[tuple[float, float]]] = {who: [] for who in ways}
    results: dict[str, Tensor] = {}
    for _ in range(rounds):
        for who, separate in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[who] = separate()
            figures[who].append((time.perf_counter() - wall, time.process_time() - cpu))
    rows = []
    base_wall, base_cpu = (median(figure[i] for figure in figures["stock"]) for i in (0, 1))
    for who, timings in figures.items():
        wall_s, cpu_s = (median(timing[i] for timing in timings) for i in (0, 1))
        rows.append(
            {
                "who": who,
                "wall_s": wall_s,
                "cpu_s": cpu_s,
                "x_realtime": seconds / wall_s,
                "ratio_wall": base_wall / wall_s,
                "ratio_cpu": base_cpu / cpu_s,
                "snr_db": None if who == "stock" else snr_db(results["stock"], results[who]),
            }
        )
    assert all(result.shape[0] == len(SOURCES) for result in results.values())
    return rows


def built_kernels(network: torch.nn.Module) -> Kernels | None:
    """The compiled core of `network`, built now unless it is there; None where that cannot be."""
    folder = OUT / "kernels"
    recipe = recipe_of(network)
    assert recipe is not None
    package = folder / f"{key_of(recipe)}.pt2"
    if not package.is_file():
        if shutil.which("g++") is None:
            print("There is no C++ compiler here: the compiled core is left out.")
            return None
        print("Building the compiled core (some minutes) …", flush=True)
        package.with_suffix(".failed").unlink(missing_ok=True)
        builder = Kernels(folder, build_after_s=0)
        builder._start_building(package.stem, recipe)
        assert builder._builder is not None
        builder._builder.wait()
    if not package.is_file():
        print(f"The compiled core could not be built: {package.with_suffix('.failed').read_text().strip()}")
        return None
    return Kernels(folder)


def measure_memory(lengths: list[float]) -> list[dict[str, Any]]:
    rows = []
    for seconds in lengths:
        peak = {}
        for who in ("ours", "stock"):
            command = [sys.executable, "-m", "bench.peak_memory", who, str(seconds)]
            ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
            peak[who] = int(ended.stdout.split()[-1]) / 2**20
        rows.append({"song_s": seconds, "ours_mib": peak["ours"], "stock_mib": peak["stock"]} | _ratio(peak))
    return rows


def _ratio(peak: dict[str, float]) -> dict[str, float]:
    return {"ours/stock": peak["ours"] / peak["stock"]}


if __name__ == "__main__":
    main()
