"""`python -m bench`: Stemify against stock Demucs on this machine's CPU, in one run. See bench/README.md."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench.job import built_library
from bench.report import OUT, Row, draw_bars, machine, save, table
from bench.speed import speed_of_htdemucs, speed_of_mini
from bench.stages import fairness, nearly_free, one_job, ready_s


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of audio a run (60)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, interleaved (3)")
    parser.add_argument(
        "--memory", type=float, nargs="*", default=[60, 180, 600], help="song lengths in s (60 180 600)"
    )
    parser.add_argument("--long", type=float, default=600, help="song of the nearly free network, s (600)")
    parser.add_argument("--no-compile", action="store_true", help="leave out what is compiled")
    chosen = parser.parse_args()

    seconds, rounds = chosen.seconds, chosen.rounds
    native = None if chosen.no_compile else built_library()
    speed = speed_of_htdemucs(seconds, rounds, native)
    print(table(f"Separation, htdemucs' size, {seconds:g} s of audio, shifts 0, overlap 0.25", speed), flush=True)
    mini = speed_of_mini(seconds, rounds, native)
    print(table(f"Separation, embedded model, {seconds:g} s of audio, shifts 0, overlap 0.25", mini), flush=True)
    memory = measure_memory(chosen.memory)
    print(table("Peak resident memory of a job by length of the song (embedded model)", memory), flush=True)
    job = one_job(seconds, rounds, native)
    print(table(f"A job of {seconds:g} s, htdemucs' size, to four mp3", job), flush=True)
    long = nearly_free(chosen.long, native)
    print(table(f"A job of {chosen.long:g} s, a network that costs next to nothing, to four mp3", long), flush=True)
    bars = against_the_bars(speed, mini, memory, job, long)
    print(table("Against what was promised", bars), flush=True)
    tables = {"speed": speed, "mini": mini, "memory": memory, "job": job, "nearly_free": long, "bars": bars}
    drawn = [(f"{row['who']}, CPU s", row["cpu_s"]) for row in speed]
    for path in save("cpu", {"machine": machine(), "seconds": seconds, **tables}, drawn, "s"):
        print(path)
    drawn = [(f"{who}, {row['song_s']:g} s", row[f"{who}_mib"]) for row in memory for who in ("ours", "stock")]
    print(draw_bars(drawn, "MiB", OUT / "cpu-memory.png"))


def against_the_bars(
    speed: list[Row], mini: list[Row], memory: list[Row], job: list[Row], long: list[Row]
) -> list[Row]:
    """One line a bar of issue and README: what was measured, and whether that keeps it."""
    rows: list[Row] = []

    def add(what: str, measured: float, bar: float, *, at_least: bool) -> None:
        kept = measured >= bar if at_least else measured <= bar
        limit = f"{'at least' if at_least else 'at most'} {bar:g}"
        rows.append({"what": what, "measured": measured, "bar": limit, "kept": "yes" if kept else "NO"})

    of = {row["who"]: row for row in speed}
    for who, bar in (("ours, eager", 1.1), ("ours, compiled", 1.7)):
        name = who if who in of else f"{who} (there is none: eager)"
        row = of.get(who, of["ours, eager"])
        add(f"{name}: stock's CPU seconds over ours", row["ratio_cpu"], bar, at_least=True)
        add(f"{name}: distance to stock, dB", row["snr_db"], 90, at_least=True)
    add("embedded model, times real time", mini[-1]["x_realtime"], 7, at_least=True)
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
