"""Compare Stemify with stock Demucs on this machine's CPU: `python -m bench`. See bench/README.md."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench.job import built_library
from bench.report import OUT, Row, draw_bars, machine, save, table
from bench.speed import speed_of_htdemucs, speed_of_mini
from bench.stages import cancel_s, cheap_job, fairness, one_job, ready_s


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="audio per run (60)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved runs of each variant (3)")
    parser.add_argument(
        "--memory", type=float, nargs="*", default=[60, 180, 600], help="song lengths in s (60 180 600)"
    )
    parser.add_argument("--long", type=float, default=600, help="song length for the cheap network, s (600)")
    parser.add_argument("--no-compile", action="store_true", help="without the native library")
    args = parser.parse_args()

    seconds, rounds = args.seconds, args.rounds
    native = None if args.no_compile else built_library()
    speed = speed_of_htdemucs(seconds, rounds, native)
    print(table(f"Separation, size of htdemucs, {seconds:g} s of audio, shifts 0, overlap 0.25", speed), flush=True)
    mini = speed_of_mini(seconds, rounds, native)
    print(table(f"Separation, embedded model, {seconds:g} s of audio, shifts 0, overlap 0.25", mini), flush=True)
    memory = measure_memory(args.memory)
    print(table("Peak resident memory by song length (embedded model)", memory), flush=True)
    job = one_job(seconds, rounds, native)
    print(table(f"A job of {seconds:g} s, size of htdemucs, to four mp3", job), flush=True)
    long = cheap_job(args.long, native)
    print(table(f"A job of {args.long:g} s, a cheap network, to four mp3", long), flush=True)
    targets = compare_with_targets(speed, mini, memory, job, long)
    print(table("Targets", targets), flush=True)
    tables = {"speed": speed, "mini": mini, "memory": memory, "job": job, "cheap": long, "targets": targets}
    drawn = [(f"{row['who']}, CPU s", row["cpu_s"]) for row in speed]
    for path in save("cpu", {"machine": machine(), "seconds": seconds, **tables}, drawn, "s"):
        print(path)
    drawn = [(f"{who}, {row['song_s']:g} s", row[f"{who}_mib"]) for row in memory for who in ("ours", "stock")]
    print(draw_bars(drawn, "MiB", OUT / "cpu-memory.png"))


def compare_with_targets(
    speed: list[Row], mini: list[Row], memory: list[Row], job: list[Row], long: list[Row]
) -> list[Row]:
    """Return one row per target: the measured value and whether it meets the target."""
    rows: list[Row] = []

    def add(name: str, measured: float, target: float, *, at_least: bool) -> None:
        met = measured >= target if at_least else measured <= target
        limit = f"{'at least' if at_least else 'at most'} {target:g}"
        rows.append({"name": name, "measured": measured, "target": limit, "met": "yes" if met else "NO"})

    of = {row["who"]: row for row in speed}
    for who, target in (("ours, eager", 1.1), ("ours, compiled", 1.7)):
        name = who if who in of else f"{who} (not available: eager)"
        row = of.get(who, of["ours, eager"])
        add(f"{name}: CPU seconds, stock / ours", row["ratio_cpu"], target, at_least=True)
        add(f"{name}: SNR against stock, dB", row["snr_db"], 90, at_least=True)
    add("embedded model, x real time", mini[-1]["x_realtime"], 7, at_least=True)
    if memory:
        add(f"memory of a {memory[-1]['song_s']:g} s song, ours / stock", memory[-1]["ours/stock"], 0.6, at_least=False)
    wall = {row["stage"]: row["wall_s"] for row in job}
    add("whole job / separation alone", wall["the whole job"] / wall["separate"], 1.05, at_least=False)
    wall = {row["stage"]: row["wall_s"] for row in long}
    alone_s = wall["decode"] + wall["encode one stem"]
    add("cheap network: job / (decoding + one encoding)", wall["the whole job"] / alone_s, 1.3, at_least=False)
    add("time until a worker is ready, s", ready_s(), 4, at_least=False)
    add("time until a song being separated is cancelled, s", cancel_s(), 2, at_least=False)
    add("20 s song: beside a 10 minute one / alone", fairness(), 2.5, at_least=False)
    return rows


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
