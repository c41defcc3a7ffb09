from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from demucs.hf import load_safetensors_model

from tests.fixtures.ports import free_port
from training.model import half_precision, new_model, write_hub_files
from training.muon import orthogonal
from training.train import TrainingPlan, learning_rate, train


def plan_of(data: Path, out: Path) -> TrainingPlan:
    return TrainingPlan(
        data=data, out=out, minutes=0, steps=1, batch=1, segment_s=0.4, lr=1e-3, seed=3, device="cpu",
        processes=1, threads=1, save_every=50, keep_every=2, port=0,
    )  # fmt: skip


def test_training_continues_where_it_stopped(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.integers(-9000, 9000, (4, 2, 44100)).astype(np.int16))
    plan = plan_of(tmp_path, tmp_path)
    train(0, plan)
    first = torch.load(tmp_path / "last.pt", weights_only=True)
    train(0, dataclasses.replace(plan, steps=2))
    second = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (first["step"], second["step"]) == (1, 2)
    name = "encoder.0.conv.weight"
    assert not torch.equal(first["model"][name], second["model"][name])
    assert torch.isfinite(second["average"][name]).all()


def test_training_run_saves_and_ends_with_its_parent(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(-9000, 9000, (4, 2, 44100)).astype(np.int16))
    port = free_port()
    flags = ["--segment-s", "0.4", "--steps", "100000", "--batch", "2", "--processes", "2", "--save-every", "1000000"]
    command = [sys.executable, "-m", "training.train", "--data", tmp_path, "--out", tmp_path, "--port", port, *flags]
    starter = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "log.tsv").exists)  # ten steps are done
    finally:
        starter.kill()
        starter.wait()
    wait_until((tmp_path / "last.pt").exists)
    wait_until(lambda: not is_taken(port))
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] >= 10


def wait_until(true: Callable[[], bool], limit_s: float = 240) -> None:
    ends_at = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < ends_at, "it did not come"
        time.sleep(0.1)


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_weights_file_is_read_by_hub_loader_of_demucs(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = new_model()
    path = write_hub_files(model.state_dict(), tmp_path)
    loaded = load_safetensors_model(path)
    assert path.stat().st_size < 6e6
    assert (tmp_path / "mini.yaml").read_text() == f"models: ['{path.stem}']\n"
    for key, value in half_precision(model.state_dict()).items():
        torch.testing.assert_close(loaded.state_dict()[key].float(), value, rtol=0, atol=0)


def test_update_of_muon_is_nearly_orthogonal() -> None:
    torch.manual_seed(2)
    for shape in ((16, 48), (48, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.4
        assert values.max() < 1.4


def test_learning_rate_rises_stays_and_falls() -> None:
    rates = [
        learning_rate(1.0, done, step, 0.4) for done, step in ((0.0, 0), (0.1, 50), (0.6, 500), (0.8, 800), (1.0, 1000))
    ]
    np.testing.assert_allclose(rates, [0.02, 1.0, 1.0, 0.5, 0.01])
