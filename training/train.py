"""Train the embedded model: `python -m training.train`. Same command on CPU and CUDA, seeded, resumable.

On a CPU several processes of one thread each share a step (their gradients are averaged): small layers use two cores
better that way than with two threads an operation. The schedule runs over `--steps` or, with `--minutes`, over the time
that has been trained, so that a budget is met on any machine.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from demucs.hf import load_safetensors_model
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from engine.synth.synthesizer import SAMPLE_RATE
from training.batches import SongFolder, batch
from training.model import new_model
from training.muon import Muon
from training.processes import summed

Optimizers = list[torch.optim.Optimizer]

# without these glibc returns every large block and clears it again: a tenth of a step
MEMORY_IS_KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}


@dataclass(frozen=True)
class TrainingPlan:
    """Parameters of a run. One of `minutes` and `steps` is zero; every `keep_every` steps an average is kept.

    `falling`: the last part of the run, 0 to 1, in which the learning rate falls.
    """

    data: Path
    out: Path
    minutes: float
    steps: int
    batch: int
    segment_s: float
    lr: float
    seed: int
    device: str
    processes: int
    threads: int
    save_every: int
    keep_every: int
    port: int
    falling: float = 0.8
    start: Path | None = None


class Average:
    """Exponential moving average of the weights; young averages forget faster."""

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.decay = decay
        self.steps = 0
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)


def learning_rate(peak: float, done: float, step: int, falling: float) -> float:
    """Return the learning rate: peak after 50 steps, linear decay in the last part of the run (`done`: 0 to 1)."""
    return peak * min(1.0, (step + 1) / 50) * min(1.0, max(0.01, (1 - done) / falling))


def optimizers_of(model: nn.Module, lr: float) -> Optimizers:
    """Return Muon for matrices and kernels at twice the rate, AdamW for the other parameters."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.dim() > 1 and "emb" not in name else others).append(parameter)
    adamw = torch.optim.AdamW([{"params": others, "peak": lr}], lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    return [Muon([{"params": matrices, "peak": 2 * lr}], lr=2 * lr), adamw]


def average_gradients(parameters: list[nn.Parameter], processes: int) -> None:
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    for p, total in zip(parameters, summed(gradients), strict=True):
        p.grad = total.div_(processes)


def train(rank: int, plan: TrainingPlan) -> None:
    """Run one process. Rank 0 also keeps the average, shows progress and writes `last.pt` and `ema.pt`."""
    torch.set_num_threads(plan.threads)
    starter = os.getppid()
    if plan.processes > 1:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # processes check between steps whether the parent has ended
        address = f"tcp://127.0.0.1:{plan.port}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=plan.processes)
    torch.manual_seed(plan.seed)
    model = new_model().to(plan.device)
    parameters = list(model.parameters())
    optimizers = optimizers_of(model, plan.lr)
    last = plan.out / "last.pt"
    if plan.start is not None and not last.exists():
        model.load_state_dict(load_safetensors_model(plan.start).state_dict())
    average = Average(model)
    step, trained_s = 0, 0.0
    if last.exists():
        saved: dict[str, Any] = torch.load(last, map_location=plan.device, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        average.state, average.steps = saved["average"], saved["step"]
        step, trained_s = saved["step"], saved["trained_s"]
    rng = np.random.default_rng([plan.seed, step, rank])
    folder = SongFolder(plan.data)
    length = int(plan.segment_s * SAMPLE_RATE)
    rows = max(1, plan.batch // plan.processes)
    recent = 0.0
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=rank > 0) as progress, ThreadPoolExecutor(1) as ahead:
        bar = progress.add_task("training", total=1.0)
        upcoming = ahead.submit(batch, folder, rows, length, rng)
        while True:
            done = step / plan.steps if plan.steps else trained_s / 60 / plan.minutes
            if plan.processes > 1 and os.getppid() != starter:
                done = 1.0  # the parent has ended: save and exit
            if plan.processes > 1:  # the clocks of the processes differ; all stop with the first
                shared = torch.tensor([done])
                dist.all_reduce(shared, dist.ReduceOp.MAX)
                done = float(shared)
            if done >= 1:
                break
            began = time.monotonic()
            stems = torch.from_numpy(upcoming.result()).to(plan.device)
            if step % 100 == 0:
                folder.scan()
            upcoming = ahead.submit(batch, folder, rows, length, rng)
            loss = train_step(model, stems, plan)
            if plan.processes > 1:
                average_gradients(parameters, plan.processes)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(group["peak"], done, step, plan.falling)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            average.update(model)
            step += 1
            trained_s += time.monotonic() - began
            recent = loss if recent == 0 else 0.98 * recent + 0.02 * loss
            speed = step / max(trained_s, 1e-9)
            text = f"step {step} · {speed:.2f} steps/s · {len(folder.songs)} songs · loss {recent:.4f}"
            progress.update(bar, completed=done, description=text)
            if rank == 0 and step % 10 == 0:
                with (plan.out / "log.tsv").open("a") as log:
                    log.write(f"{step}\t{trained_s:.1f}\t{recent:.5f}\t{len(folder.songs)}\n")
            if rank == 0 and step % plan.save_every == 0:
                save(plan.out, model, optimizers, average, step, trained_s)
            if rank == 0 and plan.keep_every and step % plan.keep_every == 0:
                torch.save(average.state, plan.out / f"ema-{step}.pt")
    if rank == 0:
        save(plan.out, model, optimizers, average, step, trained_s)


def train_step(model: nn.Module, stems: Tensor, plan: TrainingPlan) -> float:
    """Forward and backward on stems `(batch, 4, 2, samples)`; bfloat16 on CUDA.

    The loss is L1 over the waveforms of the stems, and half as much of their sum, which has to be the mix: nothing in
    HTDemucs sees to that, and making our stems add up gained 0.17 dB. The error's RMS of every stem is added, which is
    what SDR measures: where the network is unsure L1 alone makes it choose one stem, and a wrong choice costs double.
    """
    model.train()
    mix = stems.sum(1)
    with torch.autocast("cuda", torch.bfloat16, enabled=plan.device.startswith("cuda")):
        estimates = model(mix)
    errors = estimates.float() - stems
    rms = (errors.square().mean((2, 3)) + 1e-8).sqrt().mean()
    loss = (errors.abs().mean() + 0.5 * errors.sum(1).abs().mean() + rms) / (mix.std() + 1e-4)
    if math.isfinite(value := float(loss.detach())):
        loss.backward()
    return value


def save(out: Path, model: nn.Module, optimizers: Optimizers, average: Average, step: int, trained_s: float) -> None:
    state = {
        "model": model.state_dict(), "optimizers": [each.state_dict() for each in optimizers], "average": average.state,
        "step": step, "trained_s": trained_s,
    }  # fmt: skip
    for name, content in (("last.pt", state), ("ema.pt", average.state)):
        part = out / f"{name}.part"
        torch.save(content, part)
        part.rename(out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cuda = torch.cuda.is_available()
    parser.add_argument("--data", type=Path, default=Path("training/data/train"))
    parser.add_argument("--out", type=Path, default=Path("training/runs/mini"))
    parser.add_argument("--minutes", type=float, default=0.0, help="budget of training time; or give --steps")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32 if cuda else 2)
    parser.add_argument("--segment-s", type=float, default=2.6)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--processes", type=int, default=1 if cuda else min(4, os.cpu_count() or 1))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--keep-every", type=int, default=500, help="steps between averages that are kept; 0: none")
    parser.add_argument("--falling", type=float, default=0.8, help="part of the run, the last, in which the rate falls")
    parser.add_argument("--start", type=Path, help="weights (safetensors) to begin with instead of random ones")
    parser.add_argument("--port", type=int, default=29_517)
    args = parser.parse_args()
    if bool(args.minutes) == bool(args.steps):
        parser.error("give either --minutes or --steps")
    plan = TrainingPlan(**vars(args))
    if not SongFolder(plan.data).songs:
        parser.error(f"no songs in {plan.data}: run `python -m training.songs` first")
    plan.out.mkdir(parents=True, exist_ok=True)
    if plan.processes > 1:
        os.environ |= MEMORY_IS_KEPT | os.environ
        try:
            spawn(train, args=(plan,), nprocs=plan.processes)  # type: ignore[no-untyped-call]
        except KeyboardInterrupt:
            os._exit(130)  # exit at once: the processes then save and exit
    else:
        train(0, plan)


if __name__ == "__main__":
    main()
