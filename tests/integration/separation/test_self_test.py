"""The test of a GPU. Networks that change between their first and second pass stand in for one with a defect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from config.settings import load
from engine.backend import media_limits, worker_config
from engine.cli.local_separator import LocalSeparator, PlanOptions
from engine.jobs.options import StemSeparationOptions
from engine.media.sandbox import probe_in_sandbox
from engine.separation.models.library import ModelLibrary
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.schedule.self_test import fault_of
from engine.worker import worker
from engine.worker.protocol import WorkerConfig
from engine.worker.worker import usable_device
from tests.fixtures.echo_network import Echo
from tests.fixtures.songs import make_song


class Defective(Echo):
    """A network whose first pass, which a GPU would do, differs."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._spoil = spoil

    def forward(self, windows: Tensor) -> Tensor:
        stems = super().forward(windows)
        return self._spoil(stems) if len(self.batches) == 1 else stems


def fail(error: Exception) -> Callable[[Tensor], Tensor]:
    def spoil(_: Tensor) -> Tensor:
        raise error

    return spoil


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda stems: stems, None),
        (lambda stems: stems * (1 + 1e-4), None),
        (lambda stems: stems * 1.01, "it computes wrongly: 40 dB against the CPU"),
        (lambda stems: stems * torch.nan, "it computes wrongly: -inf dB against the CPU"),
        (fail(RuntimeError("no kernel image\nfor this card")), "it cannot run the network: no kernel image"),
        (fail(NotImplementedError()), "it cannot run the network: NotImplementedError()"),
        (fail(torch.OutOfMemoryError("full")), None),
    ],
)
def test_wrong_results_are_a_fault_and_lack_of_memory_is_not(
    spoil: Callable[[Tensor], Tensor], fault: str | None
) -> None:
    model = LoadedModel.of(Defective(spoil))
    assert fault_of("cpu", model) == fault


async def test_gpu_that_fails_its_test_is_replaced_by_cpu(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=1)
    settings = load(data_dir=tmp_path / "data")
    limits = media_limits(settings)
    found = await probe_in_sandbox(song, limits)
    options = StemSeparationOptions.from_user(model="mini", quality="fast")
    plan = PlanOptions(shifts=0, overlap=None, seed=0)
    # Torch has no such device here, as after the loss of a card.
    async with LocalSeparator(settings, "xpu:99", tmp_path / "out", limits) as separator:
        result = await separator.separate(
            song, found, tmp_path / "out", options, plan, on_progress=lambda _stage, _percent: None
        )
    assert result.trust is not None and result.trust.device == "cpu"
    assert "xpu:99 is not used, because it cannot run the network: " in capfd.readouterr().err


def config(precision: str) -> WorkerConfig:
    return worker_config(load(), "cpu").model_copy(update={"device": "cuda:0", "precision": precision})


@pytest.mark.parametrize(("faulty", "device", "precision"), [("fp32", "cpu", "auto"), ("fp16", "cuda:0", "fp32")])
def test_fault_in_half_precision_leaves_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faulty: str, device: str, precision: str
) -> None:
    def fault(_device: str, _model: LoadedModel, tested: str = "fp32") -> str | None:
        return "it computes wrongly" if tested == faulty else None

    monkeypatch.setattr(worker, "fault_of", fault)
    library = ModelLibrary(models_dir=None, cache_dir=tmp_path, memory_budget_bytes=1 << 30)
    used, _ = usable_device(config("auto"), library)
    assert (used.device, used.precision) == (device, precision)
