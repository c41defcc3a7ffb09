"""`python -m bench`: Stemify against stock Demucs on this machine's CPU, in one run. See bench/README.md."""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from demucs.htdemucs import HTDemucs
from torch import Tensor

from bench.networks import RATE, SOURCES, best_flops_per_s, flops_of, htdemucs, ours, snr_db, song, stock
from bench.report import OUT, Row, draw_bars, machine, save, table
from bench.stages import fairness, nearly_free, one_job, ready_s
from bench.unblend import is_here, unblend_way
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
    parser.add_argument("--long", type=float, default=600, help="song of the nearly free network, s (600)")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled core out")
    chosen = parser.parse_args()

    seconds, rounds = chosen.seconds, chosen.rounds
    speed = measure_speed(seconds, rounds, compiled=not chosen.no_compile)
    print(table(f"Separation, htdemucs' size, {seconds:g} s of audio, shifts 0, overlap 0.25", speed), flush=True)
    memory = measure_memory(chosen.memory)
    print(table("Peak resident memory of a job by length of the song (embedded model)", memory), flush=True)
    job = one_job(seconds, rounds)
    print(table(f"A job of {seconds:g} s, htdemucs' size, to four mp3", job), flush=True)
    long = nearly_free(chosen.long)
    print(table(f"A job of {chosen.long:g} s, a network that costs next to nothing, to four mp3", long), flush=True)
    bars = against_the_bars(speed, memory, job, long)
    print(table("Against what was promised", bars), flush=True)
    tables = {"speed": speed, "memory": memory, "job": job, "nearly_free": long, "bars": bars}
    drawn = [(f"{row['who']}, CPU s", row["cpu_s"]) for row in speed]
    for path in save("cpu", {"machine": machine(), "seconds": seconds, **tables}, drawn, "s"):
        print(path)
    drawn = [(f"{who}, {row['song_s']:g} s", row[f"{who}_mib"]) for row in memory for who in ("ours", "stock")]
    print(draw_bars(drawn, "MiB", OUT / "cpu-memory.png"))


def against_the_bars(speed: list[Row], memory: list[Row], job: list[Row], long: list[Row]) -> list[Row]:
    """One line a bar of issue and README: what was measured, and whether that keeps it."""
    rows: list[Row] = []

    def add(what: str, measured: float, bar: float, *, at_least: bool) -> None:
        kept = measured >= bar if at_least else measured <= bar
        limit = f"{'at least' if at_least else 'at most'} {bar:g}"
        rows.append({"what": what, "measured": measured, "bar": limit, "kept": "yes" if kept else "NO"})

    of = {row["who"]: row for row in speed}
    for who, bar in (("ours, eager", 1.1), ("ours, compiled", 1.7)):
        if who in of:
            add(f"{who}: stock's CPU seconds over ours", of[who]["ratio_cpu"], bar, at_least=True)
            add(f"{who}: distance to stock, dB", of[who]["snr_db"], 90, at_least=True)
    if memory:
        add(f"memory of a {memory[-1]['song_s']:g} s song over stock's", memory[-1]["ours/stock"], 0.6, at_least=False)
    wall = {row["stage"]: row["wall_s"] for row in job}
    add("a whole job over its separation alone", wall["the whole job"] / wall["separate"], 1.05, at_least=False)
    wall = {row["stage"]: row["wall_s"] for row in long}
    alone_s = wall["decode"] + wall["encode one stem"]
    add("nearly free network: job over decoding and one encoding", wall["the whole job"] / alone_s, 1.3, at_least=False)
    add("a worker is ready, s", ready_s(), 4, at_least=False)
    add("20 s song beside a 10 minute one over alone", fairness(), 2.5, at_least=False)
    return rows


def measure_speed(seconds: float, rounds: int, *, compiled: bool) -> list[Row]:
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
    if is_here():
        theirs = unblend_way(network.state_dict(), "cpu")
        ways["unblend"] = lambda: theirs([mix])[0]
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
    return [*rows, floor(network, seconds, base_cpu)]


def floor(network: HTDemucs, seconds: float, stock_cpu_s: float) -> Row:
    """What the products, convolutions and attention alone would cost at the rate of this machine's best product."""
    segment = int(network.segment * RATE)
    passes = math.ceil(seconds * RATE / int(0.75 * segment))
    cpu_s = passes * flops_of(network, segment) / best_flops_per_s()
    return {
        "who": "arithmetic alone",
        "wall_s": None,
        "cpu_s": cpu_s,
        "x_realtime": None,
        "ratio_wall": None,
        "ratio_cpu": stock_cpu_s / cpu_s,
        "snr_db": None,
    }


def built_kernels(network: torch.nn.Module) -> Kernels | None:
    """The compiled core of `network`, built now unless it is there; None where that cannot be."""
    folder = OUT / "kernels"
    recipe = recipe_of(network)
    assert recipe is not None
    builder = Kernels(folder, build_after_s=0)
    library = folder / f"{key_of(recipe, builder.threads)}.so"
    if not library.is_file():
        if shutil.which("g++") is None:
            print("There is no C++ compiler here: the compiled core is left out.")
            return None
        print("Building the compiled core (some minutes) …", flush=True)
        library.with_suffix(".failed").unlink(missing_ok=True)
        builder._start_building(library.stem, recipe)
        assert builder._builder is not None
        builder._builder.wait()
    if not library.is_file():
        print(f"The compiled core could not be built: {library.with_suffix('.failed').read_text().strip()}")
        return None
    return Kernels(folder)


def measure_memory(lengths: list[float]) -> list[Row]:
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
