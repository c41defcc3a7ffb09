"""Time a window of Mel-Band RoFormer against the package pymss-core, on a CPU: `python -m bench.roformer`.

Both have the width and the weights of a network of Kim's size with random values, as deep as `--depth` says.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from pymss_core.modules.bs_roformer import MelBandRoformer  # type: ignore[import-untyped]
from torch import Tensor

from bench.report import table
from engine.jobs.roformer_config import MELBAND_VOCALS
from engine.separation.models.roformer_files import build, shape_of
from engine.worker.malloc import tune_malloc

PUBLISHED_DEPTH = 6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.roformer", description=__doc__)
    parser.add_argument("--depth", type=int, default=PUBLISHED_DEPTH, help="pairs of transformers (6, as published)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved runs of each (3)")
    args = parser.parse_args()
    tune_malloc()
    reference, ours = networks(args.depth)
    window = 0.2 * torch.randn(1, 2, MELBAND_VOCALS.window_samples, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = reference(window), ours(window)[:, 0]
        error = float((found - expected).abs().max() / expected.abs().max())
        times: dict[str, list[tuple[float, float]]] = {"pymss-core": [], "ours": []}
        for _ in range(args.rounds):
            times["pymss-core"].append(seconds_of(lambda: reference(window)))
            times["ours"].append(seconds_of(lambda: ours(window)))
    cpu_s = {who: statistics.median(cpu for cpu, _ in runs) for who, runs in times.items()}
    wall_s = {who: statistics.median(wall for _, wall in runs) for who, runs in times.items()}
    rows = [{"who": who, "cpu_s": cpu_s[who], "wall_s": wall_s[who]} for who in times]
    print(table(f"One window of 8 s, depth {args.depth}, {torch.get_num_threads()} threads", rows))
    print(f"CPU time of pymss-core / ours: {cpu_s['pymss-core'] / cpu_s['ours']:.2f}; error {error:.1e} of the peak")


def networks(depth: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return the reference and our network with the same weights."""
    torch.manual_seed(0)
    blocks = {"time_transformer_depth": 1, "freq_transformer_depth": 1, "attn_dropout": 0, "ff_dropout": 0}
    masks = {"mask_estimator_depth": 2, "mlp_hidden_layers": 2, "zero_dc": False}
    reference = MelBandRoformer(384, depth=depth, stereo=True, stft_hop_length=441, **blocks, **masks).eval()
    state = reference.state_dict()
    shape = shape_of({name: tuple(value.shape) for name, value in state.items()}, MELBAND_VOCALS)
    with torch.device("meta"):
        ours = build(shape, MELBAND_VOCALS).eval()
    ours.load_state_dict(state, assign=True)
    return reference, ours


def seconds_of(run: Callable[[], object]) -> tuple[float, float]:
    """Return CPU and wall seconds."""
    cpu, wall = time.process_time(), time.monotonic()
    run()
    return time.process_time() - cpu, time.monotonic() - wall


if __name__ == "__main__":
    main()
