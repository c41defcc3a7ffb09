"""Compare Stemify with stock Demucs and unblend on a GPU, on the same weights: `make bench-gpu`.

Each variant is warmed up (CUDA graphs, compilation: `warm_s`), then timed on one song and on a queue of eight songs of
three minutes. Whole jobs to mp3 follow, and each figure is held against its bar. Results are saved after each variant.
The run takes less than eight minutes; variants for which no time is left are listed as skipped.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from demucs.apply import BagOfModels
from torch import Tensor, nn

from bench.networks import RATE, htdemucs, mdx_extra, ours, snr_db, song, stock, tiny
from bench.report import OUT, Row, machine, save, table
from bench.unblend import Separate, unblend_separate
from engine.separation.cuda.graphs import CudaForward, Tuning
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.ops.device import device_is_lost
from engine.separation.schedule.batcher import Batcher

Variant = AbstractContextManager[Separate]
BARS: tuple[tuple[str, str, str, float], ...] = (
    ("htdemucs", "ours fp16", "queue_ratio", 8),
    ("htdemucs", "ours fp16", "one_ratio", 5),
    ("htdemucs", "ours fp16", "snr_db", 55),
    ("htdemucs", "ours fp32", "queue_ratio", 1.8),
    ("htdemucs", "ours fp32", "snr_db", 90),
    ("mdx_extra", "ours fp16", "one_ratio", 3),
)
"""(network, who, figure, at least this), on an H200."""
JOBS_BAR = 600.0  # times real time, with 16 cores
JOBS_AT_ONCE = (3, 6)  # the default of `workers.attempts_per_worker`, and twice as many


class DeviceLost(Exception):
    """The device does not work any more in this process."""


class Bench:
    def __init__(self, device: str, songs: int, seconds: float, budget_s: float, out: Path) -> None:
        self.device = device
        self.mixes = [song(seconds, seed) for seed in range(songs)]
        self.rows: list[Row] = []
        self.jobs: list[Row] = []
        self.skipped: list[str] = []
        self.out = out
        self._ends_at = time.monotonic() + budget_s
        self._expected: dict[str, tuple[Tensor, Tensor]] = {}
        self._base: dict[str, tuple[float, float]] = {}

    def measure(self, network: str, who: str, prepare: Callable[[], Variant], *, songs: int, needs_s: float) -> None:
        """Time one variant. The others of its `network` are compared with the first."""
        self._add(
            f"{network}, {who}", self.rows, lambda: self._time_variant(network, who, prepare, songs), needs_s=needs_s
        )

    def measure_jobs(self, songs: int, seconds: float, at_once: int, *, needs_s: float) -> None:
        """Time whole jobs, which need all packages of Stemify."""

        def measure() -> Row:
            from bench.gpu_jobs import time_jobs

            self._clear()
            return time_jobs(self.device, songs, seconds, at_once)

        self._add(f"jobs, {at_once} at once", self.jobs, measure, needs_s=needs_s)

    def _add(self, name: str, rows: list[Row], measure: Callable[[], Row], *, needs_s: float) -> None:
        if time.monotonic() + needs_s > self._ends_at:
            self.skipped.append(f"{name}: no time left")
            return
        try:
            rows.append(measure())
            print(table("measured", rows[-1:]), flush=True)
        except Exception as error:  # a missing package or a failed build: measure the others
            self.skipped.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            print(self.skipped[-1], flush=True)
            if device_is_lost(error):
                raise DeviceLost from None
        finally:
            self.save()

    def save(self) -> list[Path]:
        measured = {
            "machine": machine(self.device),
            "rows": self.rows,
            "jobs": self.jobs,
            "bars": self.compare_with_bars(),
            "skipped": self.skipped,
        }
        bars = [(f"{row['network']}, {row['who']}", row["queue_x_realtime"]) for row in self.rows]
        return save("gpu", measured, bars, "x real time", self.out)

    def compare_with_bars(self) -> list[Row]:
        """Return one row per bar; `met` is empty where nothing was measured."""
        of = {(row["network"], row["who"]): row for row in self.rows}
        figures = [
            (f"{network}, {who}: {key}", of.get((network, who), {}).get(key), bar) for network, who, key, bar in BARS
        ]
        figures.append(("jobs: x_realtime", max((row["x_realtime"] for row in self.jobs), default=None), JOBS_BAR))
        late = sum(row["recorded_late"] for row in self.rows) if self.rows else None
        is_met = None if late is None else late == 0
        return [
            {"name": name, "measured": measured, "bar": bar, "met": None if measured is None else measured >= bar}
            for name, measured, bar in figures
        ] + [{"name": "recorded late (at most)", "measured": late, "bar": 0, "met": is_met}]

    def _time_variant(self, network: str, who: str, prepare: Callable[[], Variant], songs: int) -> dict[str, Any]:
        self._clear()
        began = time.perf_counter()
        with prepare() as separate:
            separate(self.mixes[: 1 if who.startswith("stock") else songs])
            warm_s, warm_recordings = time.perf_counter() - began, recordings()
            one_s, one = min((self._time(separate, self.mixes[:1]) for _ in range(3)), key=lambda result: result[0])
            queue_s, queue = self._time(separate, self.mixes[:songs])
            recorded, unrecordable = recordings(), unrecordable_shapes()
            peak_bytes = torch.cuda.max_memory_reserved() if self.device != "cpu" else 0
        found = (one[0], queue[-1])
        expected = self._expected.setdefault(network, found)
        base = self._base.setdefault(network, (one_s, queue_s / songs))
        return {
            "network": network,
            "who": who,
            "one_s": one_s,
            "queue_s": queue_s,
            "songs": songs,
            "queue_x_realtime": songs * self.mixes[0].shape[-1] / RATE / queue_s,
            "one_ratio": base[0] / one_s,
            "queue_ratio": base[1] / (queue_s / songs),
            "snr_db": None if found is expected else min(map(snr_db, expected, found)),
            "peak_gib": peak_bytes / 2**30,
            "warm_s": warm_s,
            "recorded": recorded,
            "recorded_late": recorded - warm_recordings,  # while timed, which distorts the figure
            "not_recordable": unrecordable,  # shapes that run without a recording
        }

    def _time(self, separate: Separate, mixes: list[Tensor]) -> tuple[float, list[Tensor]]:
        if self.device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        found = separate(mixes)
        return time.perf_counter() - began, found

    def _clear(self) -> None:
        """Free the memory of the previous variant, so that the peak is of one variant."""
        torch._dynamo.reset()
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def recordings() -> int:
    """Return the number of CUDA graphs in this process."""
    return sum(each.recordings for each in gc.get_objects() if type(each) is CudaForward)


def unrecordable_shapes() -> int:
    """Return the number of shapes that could not be recorded as a CUDA graph."""
    return sum(each.unrecordable for each in gc.get_objects() if type(each) is CudaForward)


@contextmanager
def stock_variant(network: nn.Module, device: str) -> Iterator[Separate]:
    network.to(device)
    try:
        yield lambda mixes: [stock(network, mix, device) for mix in mixes]
    finally:
        with suppress(RuntimeError):  # the device is lost
            network.to("cpu")


@contextmanager
def our_variant(network: nn.Module, device: str, **options: Any) -> Iterator[Separate]:
    model, batcher = LoadedModel.of(network), Batcher(device, **options)

    def separate(mixes: list[Tensor]) -> list[Tensor]:
        with ThreadPoolExecutor(len(mixes)) as pool:
            return list(pool.map(lambda mix: ours(batcher, model, mix), mixes))

    try:
        yield separate
    finally:
        batcher.close()


@contextmanager
def unblend_variant(weights: dict[str, Tensor], device: str) -> Iterator[Separate]:
    yield unblend_separate(weights, device)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--songs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--budget", type=float, default=450, help="seconds for all variants (450)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the JSON and the picture (bench/out)")
    parser.add_argument("--device", default="cuda", help='"cpu" only tests this script, with tiny networks')
    args = parser.parse_args(arguments)
    if args.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("No CUDA device found.")
    bench = Bench(args.device, args.songs, args.seconds, args.budget, args.out)
    with suppress(DeviceLost):
        measure_all(bench, args.device, args.songs, args.seconds)
    print(table(f"{args.songs} songs of {args.seconds:g} s, shifts 0, overlap 0.25", bench.rows))
    print(table("whole jobs of quality fast, to four mp3", bench.jobs))
    print(table("Against what was promised", bench.compare_with_bars()))
    for line in bench.skipped:
        print("skipped:", line)
    for path in bench.save():
        print(path)


def measure_all(bench: Bench, device: str, songs: int, seconds: float) -> None:
    """Measure the variants with targets first and the slow ones last."""
    if device == "cpu":
        short = Fraction(1, 2)
        transformer, bag = tiny(segment=short), BagOfModels([tiny(segment=short)])
    else:
        transformer, bag = htdemucs(), mdx_extra()
    weights = {name: value.clone() for name, value in transformer.state_dict().items()}

    def add(who: str, prepare: Callable[[], Variant], needs_s: float) -> None:
        bench.measure("htdemucs", who, prepare, songs=songs, needs_s=needs_s)

    def add_bag(who: str, prepare: Callable[[], Variant], needs_s: float) -> None:
        bench.measure("mdx_extra", who, prepare, songs=1, needs_s=needs_s)

    def ours_with(precision: str, **tuning: bool) -> Callable[[], Variant]:
        return lambda: our_variant(transformer, device, precision=precision, tuning=Tuning(**tuning))

    torch.backends.cudnn.allow_tf32 = False  # the reference of the 90 dB
    add("stock", lambda: stock_variant(transformer, device), 60)
    add("ours fp32", ours_with("fp32"), 30)
    add("ours fp16", ours_with("fp16"), 30)
    add_bag("stock", lambda: stock_variant(bag, device), 40)
    add_bag("ours fp32", lambda: our_variant(bag, device, precision="fp32"), 30)
    add_bag("ours fp16", lambda: our_variant(bag, device, precision="fp16"), 30)
    for at_once in JOBS_AT_ONCE:
        bench.measure_jobs(2 * songs, seconds, at_once, needs_s=40)
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default, faster
    add("stock with TF32", lambda: stock_variant(transformer, device), 60)
    add("ours tf32", ours_with("tf32"), 30)
    add("unblend", lambda: unblend_variant(weights, device), 60)
    add("ours fp16, cuDNN search", ours_with("fp16", search=True), 60)
    add("ours fp16, compiled", ours_with("fp16", compiled=True), 120)


if __name__ == "__main__":
    main()
