from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from config.settings import Storage as StorageSettings
from engine.pool.handle import PoolLimits
from engine.pool.pool import WorkerPool
from engine.worker.protocol import WorkerConfig

STAND_IN = (sys.executable, str(Path(__file__).parents[1] / "fakes" / "worker.py"))
LIMITS = PoolLimits(
    attempts_per_worker=3, heartbeat_timeout_s=2.0, stall_timeout_s=30.0, start_timeout_s=30.0, cancel_grace_s=0.5
)
PoolMaker = Callable[..., AbstractAsyncContextManager[WorkerPool]]


@pytest.fixture(scope="session")
def native_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the native library for this processor, once for all processes of the run."""
    if shutil.which("g++") is None:
        pytest.skip("no compiler here")
    from engine.separation.build_native import compile_library  # imports torch

    ours = tmp_path_factory.getbasetemp()
    folder = (ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours) / "native"
    folder.mkdir(exist_ok=True)
    library = folder / "library.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            compile_library(library)
    return library


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses before another attempt and before a worker is started again."""
    monkeypatch.setattr("engine.dispatch.retry._PAUSES_S", (0.05,))
    monkeypatch.setattr("engine.pool.supervisor._RESTART_PAUSES_S", (0.05,))


@pytest.fixture
def stand_in_pool(tmp_path: Path, short_pauses: None) -> PoolMaker:
    """`async with stand_in_pool(workers=1, **limits) as pool`: real processes, without torch."""

    @asynccontextmanager
    async def make(
        workers: int = 1,
        storage: StorageSettings | None = None,
        devices: Sequence[str] | None = None,
        **limits: float,
    ) -> AsyncIterator[WorkerPool]:
        configs = [
            WorkerConfig(
                device=device, data_dir=str(tmp_path / "data"), storage=storage, cache_dir=str(tmp_path / "models"),
                model_memory_bytes=1 << 30, heartbeat_s=0.1, decode_timeout_s=10.0, child_memory_bytes=1 << 30,
                input_bytes=1 << 20,
            )
            for device in devices or ["cpu"] * workers
        ]  # fmt: skip
        pool = WorkerPool(configs, replace(LIMITS, **limits), STAND_IN)  # type: ignore[arg-type]
        await pool.start()
        try:
            async with asyncio.timeout(60):
                while not all(worker.ready for worker in pool.workers):
                    await asyncio.sleep(0.01)
            yield pool
        finally:
            await pool.stop()

    return make
