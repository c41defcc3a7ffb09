"""`make bench-gpu`: everything that is claimed for a GPU, against stock Demucs and, where it can be imported, unblend,
on the same weights in one run of less than eight minutes. Without a GPU it says so and measures nothing.

Each way is warmed up first (recordings, compilation: given as `warm_s`), then timed on one song and on a queue of eight
songs of three minutes. What has been measured is saved after each way; when time runs short, what is left is skipped
and listed."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.networks import RATE, htdemucs, mdx_extra, ours, snr_db, song, stock
from bench.report import OUT, machine, save, table
from bench.unblend import Separate, unblend_way
from engine.separation.cuda.graphs import CudaForward, Tuning
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.ops.device import device_is_lost
from engine.separation.schedule.batcher import Batcher

Way = AbstractContextManager[Separate]


class DeviceLost(Exception):
    """Nothing works on the device any more in this process."""


class Bench:
    def __init__(self, device: str, songs: int, seconds: float, budget_s: float, out: Path) -> None:
        self.device = device
        self.mixes = [song(seconds, seed) for seed in range(songs)]
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[str] = []
        self.out = out
        self._ends_at = time.monotonic() + budget_s
        self._expected: dict[str, tuple[Tensor, Tensor]] = {}
        self._base: dict[str, tuple[float, float]] = {}

    def measure(self, network: str, who: str, prepare: Callable[[], Way], *, songs: int, needs_s: float) -> None:
        """Time one way. The first of each `network` is what the others are compared with."""
        if time.monotonic() + needs_s > self._ends_at:
            self.skipped.append(f"{network}, {who}: no time left")
            return
        try:
            self.rows.append(self._measured(network, who, prepare, songs))
            print(table("so far", self.rows[-1:]), flush=True)
        except Exception as error:  # a missing package, a kernel that does not build: the rest is still worth having
            self.skipped.append(f"{network}, {who}: {type(error).__name__}: {str(error)[:300]}")
            print(self.skipped[-1], flush=True)
            if device_is_lost(error):
                raise DeviceLost from None
        finally:
            self.save()

    def save(self) -> list[Path]:
        measured = {"machine": machine(self.device), "rows": self.rows, "skipped": self.skipped}
        bars = [(f"{row['network']}, {row['who']}", row["queue_x_realtime"]) for row in self.rows]
        return save("gpu", measured, bars, "x real time", self.out)

    def _measured(self, network: str, who: str, prepare: Callable[[], Way], songs: int) -> dict[str, Any]:
        self._clear()
        began = time.perf_counter()
        with prepare() as separate:
            separate(self.mixes[: 1 if who.startswith("stock") else songs])
            warm_s, warm_recordings = time.perf_counter() - began, recordings()
            one_s, one = min((self._timed(separate, self.mixes[:1]) for _ in range(3)), key=lambda timed: timed[0])
            queue_s, queue = self._timed(separate, self.mixes[:songs])
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
            "of_it_late": recorded - warm_recordings,  # in what was timed: not fair
            "not_recordable": unrecordable,  # shapes that run without a recording
        }

    def _timed(self, separate: Separate, mixes: list[Tensor]) -> tuple[float, list[Tensor]]:
        if self.device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        found = separate(mixes)
        return time.perf_counter() - began, found

    def _clear(self) -> None:
        """What the way before has left, so that the peak is of one way."""
        torch._dynamo.reset()
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def recordings() -> int:
    """Return the number of CUDA graphs in this process."""
    return sum(each.recordings for each in gc.get_objects() if type(each) is CudaForward)


def unrecordable_shapes() -> int:
    """Return the number of shapes of which no CUDA graph could be made."""
    return sum(each.unrecordable for each in gc.get_objects() if type(each) is CudaForward)


@contextmanager
def stock_way(network: nn.Module, device: str) -> Iterator[Separate]:
    network.to(device)
    try:
        yield lambda mixes: [stock(network, mix, device) for mix in mixes]
    finally:
        with suppress(RuntimeError):  # of a device that is lost
            network.to("cpu")


@contextmanager
def our_way(network: nn.Module, device: str, **how: Any) -> Iterator[Separate]:
    model, batcher = LoadedModel.of(network), Batcher(device, **how)

    def separate(mixes: list[Tensor]) -> list[Tensor]:
        with ThreadPoolExecutor(len(mixes)) as pool:
            return list(pool.map(lambda mix: ours(batcher, model, mix), mixes))

    try:
        yield separate
    finally:
        batcher.close()


@contextmanager
def their_way(weights: dict[str, Tensor], device: str) -> Iterator[Separate]:
    yield unblend_way(weights, device)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--songs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--budget", type=float, default=450, help="seconds for everything (450)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the JSON and the picture (bench/out)")
    parser.add_argument("--device", default="cuda", help='"cpu" only tries the script itself')
    chosen = parser.parse_args(arguments)
    if chosen.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here, so there is nothing to measure.")
    bench = Bench(chosen.device, chosen.songs, chosen.seconds, chosen.budget, chosen.out)
    with suppress(DeviceLost):
        measure_all(bench, chosen.device, chosen.songs)
    print(table(f"{chosen.songs} songs of {chosen.seconds:g} s, shifts 0, overlap 0.25", bench.rows))
    for line in bench.skipped:
        print("left out:", line)
    for path in bench.save():
        print(path)


def measure_all(bench: Bench, device: str, songs: int) -> None:
    """What was promised first, then what is good to know, then what may take long."""
    transformer, bag = htdemucs(), mdx_extra()
    weights = {name: value.clone() for name, value in transformer.state_dict().items()}

    def add(who: str, prepare: Callable[[], Way], needs_s: float) -> None:
        bench.measure("htdemucs", who, prepare, songs=songs, needs_s=needs_s)

    def add_bag(who: str, prepare: Callable[[], Way], needs_s: float) -> None:
        bench.measure("mdx_extra", who, prepare, songs=1, needs_s=needs_s)

    def mine(precision: str, **tuning: bool) -> Callable[[], Way]:
        return lambda: our_way(transformer, device, precision=precision, tuning=Tuning(**tuning))

    torch.backends.cudnn.allow_tf32 = False  # what the 90 dB are measured against
    add("stock", lambda: stock_way(transformer, device), 60)
    add("ours fp32", mine("fp32"), 30)
    add("ours fp16", mine("fp16"), 30)
    add_bag("stock", lambda: stock_way(bag, device), 40)
    add_bag("ours fp32", lambda: our_way(bag, device, precision="fp32"), 30)
    add_bag("ours fp16", lambda: our_way(bag, device, precision="fp16"), 30)
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default: the faster stock
    add("stock with TF32", lambda: stock_way(transformer, device), 60)
    add("ours tf32", mine("tf32"), 30)
    add("unblend", lambda: their_way(weights, device), 60)
    add("ours fp16, searched", mine("fp16", search=True), 60)
    add("ours fp16, compiled", mine("fp16", compiled=True), 120)


if __name__ == "__main__":
    main()
