"""The model that needs torchaudio."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from engine.errors import ModelCorrupt
from engine.separation import Separator
from engine.separation.models.library import ModelLibrary
from tests.fixtures.model_files import BUDGET_BYTES, library


class _AsTorchaudios(torch.nn.Module):
    """A network with torchaudio's interface, without the attributes of demucs' networks."""

    def __init__(self, sources: list[str]) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(len(sources)))

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        return mix[:, None] * self.scale[:, None, None]


@pytest.fixture
def torchaudio(monkeypatch: pytest.MonkeyPatch) -> None:
    package, models = types.ModuleType("torchaudio"), types.ModuleType("torchaudio.models")
    package.__spec__ = ModuleSpec("torchaudio", None)
    models.hdemucs_high = _AsTorchaudios  # type: ignore[attr-defined]
    package.models = models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchaudio", package)
    monkeypatch.setitem(sys.modules, "torchaudio.models", models)


@pytest.mark.usefixtures("torchaudio")
def test_torchaudio_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    torch.save({"scale": torch.tensor([0.1, 0.2, 0.3, 0.4])}, tmp_path / "own/hdemucs_high_trained.pt")
    models = ModelLibrary(tmp_path / "own", tmp_path / "cache", BUDGET_BYTES)
    assert models.state("hdemucs_high").state == "ready"
    mix = torch.randn(2, 50_000)
    stems = Separator(models.load("hdemucs_high")).separate(mix, shifts=0, overlap=0.25)
    torch.testing.assert_close(stems["vocals"], 0.4 * mix)


@pytest.mark.usefixtures("torchaudio")
def test_torchaudio_weights_are_loaded_as_tensors_only(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    torch.save({"scale": Path("code")}, tmp_path / "own/hdemucs_high_trained.pt")
    with pytest.raises(ModelCorrupt):
        ModelLibrary(tmp_path / "own", tmp_path / "cache", BUDGET_BYTES).load("hdemucs_high")


def test_broken_torchaudio_is_named_as_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("torchaudio")
    package.__spec__ = ModuleSpec("torchaudio", None)
    monkeypatch.setitem(sys.modules, "torchaudio", package)  # without torchaudio.models
    state = library(tmp_path).state("hdemucs_high")
    assert state.state == "unavailable"
    assert "cannot be used here" in (state.reason or "")
