"""Speed of the separation alone on the CPU: ours, stock and unblend, interleaved."""

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
from bench.unblend import is_installed, unblend_separate
from engine.separation.models.library import ModelLibrary
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.native.library import NativeLibrary
from engine.separation.schedule.batcher import Batcher

Variant = Callable[[], Tensor]
"""Separates a fixed mix."""


def speed_of_htdemucs(seconds: float, rounds: int, native: NativeLibrary | None) -> list[Row]:
    """Measure a network of the size of htdemucs, with a lower bound."""
    network, mix = htdemucs(), song(seconds)
    variants = variants_of(LoadedModel.of(network, "htdemucs"), mix, native)
    if is_installed():
        separate = unblend_separate(network.state_dict(), "cpu")
        variants["unblend"] = lambda: separate([mix])[0]
    rows = compare(variants, seconds, rounds)
    return [*rows, arithmetic_row(network, seconds, rows[0]["cpu_s"])]


def speed_of_mini(seconds: float, rounds: int, native: NativeLibrary | None) -> list[Row]:
    """Measure the embedded model."""
    with tempfile.TemporaryDirectory() as folder:
        model = ModelLibrary(None, Path(folder), 1 << 30).load("mini")
    return compare(variants_of(model, song(seconds), native), seconds, rounds)


def variants_of(model: LoadedModel, mix: Tensor, native: NativeLibrary | None) -> dict[str, Variant]:
    """Return stock and our variants for a model with one network."""
    eager = Batcher()
    variants: dict[str, Variant] = {
        "stock": lambda: stock(model.members[0], mix),
        "ours, eager": lambda: ours(eager, model, mix),
    }
    if native is not None:
        fast = Batcher(native=native)
        ours(fast, model, song(8))  # loads the native library
        variants["ours, compiled"] = lambda: ours(fast, model, mix)
    return variants


def compare(variants: dict[str, Variant], seconds: float, rounds: int) -> list[Row]:
    """Run the variants in turns; return their medians and ratios to the first one."""
    figures: dict[str, list[tuple[float, float]]] = {who: [] for who in variants}
    results: dict[str, Tensor] = {}
    for _ in range(rounds):
        for who, separate in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[who] = separate()
            figures[who].append((time.perf_counter() - wall, time.process_time() - cpu))
    base = next(iter(variants))
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


def arithmetic_row(network: HTDemucs, seconds: float, stock_cpu_s: float) -> Row:
    """Return a lower bound: products, convolutions and attention at the speed of this machine's best product."""
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
