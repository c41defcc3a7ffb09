"""Separation alone on this machine's CPU: ours, stock's and unblend's, interleaved."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from demucs.htdemucs import HTDemucs
from torch import Tensor

from bench.networks import RATE, SOURCES, best_flops_per_s, flops_of, htdemucs, ours, snr_db, song, stock
from bench.report import Row
from bench.unblend import is_here, unblend_way
from engine.separation.models.library import ModelLibrary
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.native.library import NativeLibrary
from engine.separation.schedule.batcher import Batcher

Way = Callable[[], Tensor]
"""Of separating the mix that it was made for."""


def speed_of_htdemucs(seconds: float, rounds: int, native: NativeLibrary | None) -> list[Row]:
    """Of a network of htdemucs' size, beside a bound."""
    network, mix = htdemucs(), song(seconds)
    ways = ways_of(LoadedModel.of(network, "htdemucs"), mix, native)
    if is_here():
        theirs = unblend_way(network.state_dict(), "cpu")
        ways["unblend"] = lambda: theirs([mix])[0]
    rows = compare(ways, seconds, rounds)
    return [*rows, floor(network, seconds, rows[0]["cpu_s"])]


def speed_of_mini(seconds: float, rounds: int, native: NativeLibrary | None) -> list[Row]:
    """Of the embedded model."""
    with tempfile.TemporaryDirectory() as folder:
        model = ModelLibrary(None, Path(folder), 1 << 30).load("mini")
    return compare(ways_of(model, song(seconds), native), seconds, rounds)


def ways_of(model: LoadedModel, mix: Tensor, native: NativeLibrary | None) -> dict[str, Way]:
    """Stock's and ours, of a model of one network."""
    eager = Batcher()
    ways: dict[str, Way] = {
        "stock": lambda: stock(model.members[0], mix),
        "ours, eager": lambda: ours(eager, model, mix),
    }
    if native is not None:
        fast = Batcher(native=native)
        ours(fast, model, song(8))  # takes the native up
        ways["ours, compiled"] = lambda: ours(fast, model, mix)
    return ways


def compare(ways: dict[str, Way], seconds: float, rounds: int) -> list[Row]:
    """The medians of each way, the first of which is the one to compare with, in turns."""
    figures: dict[str, list[tuple[float, float]]] = {who: [] for who in ways}
    results: dict[str, Tensor] = {}
    for _ in range(rounds):
        for who, separate in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[who] = separate()
            figures[who].append((time.perf_counter() - wall, time.process_time() - cpu))
    base = next(iter(ways))
    rows: list[Row] = []
    base_wall, base_cpu = (median(figure[i] for figure in figures[base]) for i in (0, 1))
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
                "snr_db": None if who == base else snr_db(results[base], results[who]),
            }
        )
    assert all(result.shape[0] == len(SOURCES) for result in results.values())
    return rows


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
