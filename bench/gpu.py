"""`make bench-gpu`: everything that is claimed for a GPU, against stock Demucs and, where it can be imported, unblend,
on the same weights in one run of less than eight minutes. Without a GPU it says so and measures nothing.

Each way is warmed up first (recordings, compilation: given as `warm_s`), then timed on a queue of eight songs of three
minutes and on one song. When time runs short, what is left is skipped and listed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from bench.networks import RATE, htdemucs, mdx_extra, ours, snr_db, song, stock
from bench.report import machine, save, table
from bench.unblend import Separate, unblend_way
from engine.separation.batcher import Batcher
from engine.separation.loaded import LoadedModel


class Bench:
    def __init__(self, device: str, songs: int, seconds: float, budget_s: float) -> None:
        self.device = device
        self.mixes = [song(seconds, seed) for seed in range(songs)]
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[str] = []
        self._ends_at = time.monotonic() + budget_s
        self._expected: dict[str, Tensor] = {}
        self._base: dict[str, tuple[float, float]] = {}

    def measure(self, network: str, who: str, prepare: Callable[[], Separate], *, songs: int, needs_s: float) -> None:
        """Time one way. The first of each `network` is what the others are compared with."""
        if time.monotonic() + needs_s > self._ends_at:
            self.skipped.append(f"{network}, {who}: no time left")
            return
        try:
            began = time.perf_counter()
            separate = prepare()
            first = separate(self.mixes[:2])[0]  # two: also what is done to a shared batch
            separate(self.mixes[:songs] if who != "stock" else self.mixes[:1])
            warm_s = time.perf_counter() - began
            one_s = min(self._time(separate, self.mixes[:1]) for _ in range(2))
            queue_s = self._time(separate, self.mixes[:songs])
        except Exception as error:  # a missing package, a kernel that does not build: the rest is still worth having
            self.skipped.append(f"{network}, {who}: {type(error).__name__}: {str(error)[:300]}")
            torch.cuda.empty_cache()
            return
        expected = self._expected.setdefault(network, first)
        base = self._base.setdefault(network, (one_s, queue_s / songs))
        audio_s = self.mixes[0].shape[-1] / RATE
        self.rows.append(
            {
                "network": network,
                "who": who,
                "one_s": one_s,
                "queue_s": queue_s,
                "songs": songs,
                "queue_x_realtime": songs * audio_s / queue_s,
                "one_ratio": base[0] / one_s,
                "queue_ratio": base[1] / (queue_s / songs),
                "snr_db": None if first is expected else snr_db(expected, first),
                "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if self.device != "cpu" else None,
                "warm_s": warm_s,
            }
        )
        print(table("so far", self.rows[-1:]), flush=True)

    def _time(self, separate: Separate, mixes: list[Tensor]) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        separate(mixes)
        return time.perf_counter() - began


def stock_way(network: nn.Module, device: str) -> Separate:
    network.to(device)
    return lambda mixes: [stock(network, mix, device) for mix in mixes]


def our_way(network: nn.Module, device: str, **how: Any) -> Separate:
    model, batcher = LoadedModel.of(network.to("cpu")), Batcher(device, **how)

    def separate(mixes: list[Tensor]) -> list[Tensor]:
        with ThreadPoolExecutor(len(mixes)) as pool:
            return list(pool.map(lambda mix: ours(batcher, model, mix), mixes))

    return separate


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--songs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--budget", type=float, default=450, help="seconds for everything (450)")
    parser.add_argument("--device", default="cuda", help='"cpu" only tries the script itself')
    chosen = parser.parse_args(arguments)
    if chosen.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here, so there is nothing to measure.")
    bench = Bench(chosen.device, chosen.songs, chosen.seconds, chosen.budget)
    device, many = chosen.device, chosen.songs
    transformer = htdemucs()
    weights = {name: value.clone() for name, value in transformer.state_dict().items()}

    def add(who: str, prepare: Callable[[], Separate], needs_s: float) -> None:
        bench.measure("htdemucs", who, prepare, songs=many, needs_s=needs_s)

    torch.backends.cudnn.allow_tf32 = False  # what the 90 dB are measured against
    add("stock", lambda: stock_way(transformer, device), 60)
    add("ours fp32", lambda: our_way(transformer, device, precision="fp32"), 40)
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default: the faster stock
    add("stock with TF32", lambda: stock_way(transformer, device), 60)
    add("ours tf32", lambda: our_way(transformer, device, precision="tf32"), 40)
    add("ours fp16", lambda: our_way(transformer, device, precision="fp16"), 40)
    add("ours fp16, compiled", lambda: our_way(transformer, device, precision="fp16", compiled=True), 120)
    add("unblend", lambda: unblend_way(weights, device), 90)
    bag = mdx_extra()
    bench.measure("mdx_extra", "stock", lambda: stock_way(bag, device), songs=1, needs_s=40)
    bench.measure("mdx_extra", "ours fp32", lambda: our_way(bag, device, precision="fp32"), songs=1, needs_s=40)
    bench.measure("mdx_extra", "ours fp16", lambda: our_way(bag, device, precision="fp16"), songs=1, needs_s=40)

    print(table(f"{many} songs of {chosen.seconds:g} s, shifts 0, overlap 0.25", bench.rows))
    for line in bench.skipped:
        print("left out:", line)
    measured = {"machine": machine(device), "rows": bench.rows, "skipped": bench.skipped}
    bars = [(f"{row['network']}, {row['who']}", row["queue_x_realtime"]) for row in bench.rows]
    for path in save("gpu", measured, bars, "x real time"):
        print(path)


if __name__ == "__main__":
    main()
