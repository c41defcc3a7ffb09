"""Songs and a service for the tests of workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from config.settings import load
from engine.backend import backend
from engine.jobs.models import add_own_models
from engine.service.service import StemService
from tests.fixtures.songs import make_song, tune
from tests.fixtures.tiny_models import write_model
from tests.fixtures.tiny_roformers import write_roformer


@pytest.fixture(scope="session")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("songs") / "song.wav"
    make_song(path, seconds=5)
    return path


@pytest.fixture(scope="session")
def long_song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a song long enough to be interrupted while it is separated."""
    path = tmp_path_factory.mktemp("songs") / "long.mp3"
    make_song(path, seconds=20)
    return path


@pytest.fixture(scope="session")
def tune_song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("songs") / "song.wav"
    make_song(path, samples=tune(4), bits="f32")
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def better_models(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StemService]:
    """Run a service with a tiny RoFormer and two tiny networks of Demucs."""
    folder = tmp_path_factory.mktemp("better")
    write_roformer(folder / "models", "melband_vocals")
    write_model(folder / "models", "htdemucs")
    write_model(folder / "models", "hdemucs_mmi", seed=1, signature="1b2c3d4e")
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # an unused port
    patch.setattr("engine.dispatch.retry._PAUSES_S", (0.05,))
    loaded = load(data_dir=folder / "data", models_dir=folder / "models", retention={"reuse_results": True})
    workers = loaded.workers.model_copy(update={"devices": ["cpu"], "threads": 1, "compile": False})
    async with backend(loaded.model_copy(update={"workers": workers}), with_web=False) as running:
        assert await running.service._pool.wait_ready(100)
        yield running.service
    add_own_models(None)
    patch.undo()
