"""A job store on a simulated clock for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.database.job_store import JobStore
from tests.fixtures.jobs import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[JobStore]:
    store = await JobStore.open(tmp_path / "stemify.sqlite3", now=clock)
    yield store
    await store.close()
