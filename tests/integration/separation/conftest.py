"""Graphs that are recorded without a GPU."""

from __future__ import annotations

import pytest
import torch

from engine.separation.cuda.graphs import CudaForward
from tests.fixtures.echo_gpu import Recording


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    made: list[Recording] = []

    def capture(self: CudaForward, key: tuple[int, int], like: torch.Tensor) -> object:
        recording = Recording(self, key, like)
        made.append(recording)
        return recording, recording.given, recording.stems

    monkeypatch.setattr(CudaForward, "_capture", capture)
    return made
