"""A service with a real worker for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from config.settings import Settings, load
from engine.backend import backend
from engine.service.service import StemService
from tests.fixtures.tiny_models import write_model


@pytest.fixture
def ann(request: pytest.FixtureRequest) -> str:
    """Return a user with a fresh quota; all tests share one backend, because torch takes seconds to start."""
    return f"discord:{request.node.name}"


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Settings:
    loaded = load(data_dir=tmp_path_factory.mktemp("service") / "data", models_dir=models_dir)
    workers = loaded.workers.model_copy(update={"devices": ["cpu"], "threads": 1, "compile": False})
    return loaded.model_copy(update={"workers": workers})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(settings: Settings) -> AsyncIterator[StemService]:
    async with backend(settings, with_web=False) as opened:
        yield opened.service
