"""Faults of a worker that runs native code, as workers do by default; the other tests of jobs run in eager mode."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from config.settings import load
from engine.backend import backend
from engine.jobs.entity import new_job_id
from engine.jobs.job import JobStatus
from engine.separation.native import ops as native_ops
from engine.separation.native.files import NativeFiles
from engine.service.service import StemService
from tests.fixtures.service_jobs import files_of, finish, separating, submit, until, without_memory, worker_pid
from tests.fixtures.tiny_models import write_model

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]  # includes a build


@pytest.fixture(scope="module")
def data(native_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder with a native library, so that no worker builds one."""
    data = tmp_path_factory.mktemp("data")
    kernels = data / "models" / "kernels"
    kernels.mkdir(parents=True, mode=0o700)
    built = kernels / "built.so"
    shutil.copy(native_library, built)
    NativeFiles(kernels, native_ops.library_key()).publish(built)
    return data


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(data: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StemService]:
    models = tmp_path_factory.mktemp("models")
    write_model(models)
    settings = load(data_dir=data, models_dir=models)
    workers = settings.workers.model_copy(update={"devices": ["cpu"], "threads": 1})
    assert workers.compile
    async with backend(settings.model_copy(update={"workers": workers}), with_web=False) as running:
        yield running.service


@pytest_asyncio.fixture(loop_scope="module")
async def ann(service: StemService, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Return a user with a fresh quota; delete their data afterwards."""
    name = f"discord:{request.node.name}"
    yield name
    await service.delete_all(name)


async def separated_natively(service: StemService, song: Path, owner: str) -> int:
    """Separate a song; return the id of the worker, which has used the library."""
    assert (await finish(service, await submit(service, song, owner))).status is JobStatus.COMPLETED
    pid = worker_pid(service)
    assert native_ops.library_key() in Path(f"/proc/{pid}/maps").read_text()
    return pid


async def test_native_worker_out_of_memory_is_reported(service: StemService, data: Path, song: Path, ann: str) -> None:
    pid = await separated_natively(service, song, ann)
    with without_memory(pid):
        job = await finish(service, await submit(service, song, ann))
    assert (job.status, job.error_code, job.attempt) == (JobStatus.FAILED, "out_of_memory", 3), job.error
    assert files_of(data, job.id) == [f"jobs/{job.id}/input"]
    again = await service.retry(job.id, by=ann)
    assert (await finish(service, again.job.id)).status is JobStatus.COMPLETED
    assert worker_pid(service) == pid, "the worker has not been restarted"


async def test_killed_native_worker_costs_one_attempt(
    service: StemService, song: Path, long_song: Path, ann: str
) -> None:
    pid = await separated_natively(service, song, ann)
    job_id = await submit(service, long_song, ann)
    await until(service, job_id, separating)
    os.kill(pid, signal.SIGKILL)
    job = await finish(service, job_id)
    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 2)
    assert await separated_natively(service, song, ann) != pid


async def test_cancelled_native_job_leaves_worker_running(
    service: StemService, data: Path, song: Path, long_song: Path, ann: str
) -> None:
    pid = await separated_natively(service, song, ann)
    job_id = await submit(service, long_song, ann)
    await until(service, job_id, separating)
    await service.cancel(job_id, by=ann)
    assert (await finish(service, job_id)).error_code == "cancelled"
    assert await separated_natively(service, song, ann) == pid


async def test_same_job_id_gives_same_samples_natively(service: StemService, song: Path, ann: str) -> None:
    await separated_natively(service, song, ann)
    job_id, stems = new_job_id(), []
    for _ in range(2):
        await submit(service, song, ann, job_id=job_id, quality="best")
        job = await finish(service, job_id)
        async with service.open_file(job, "bass") as path:
            stems.append(path.read_bytes())
        await service.delete(job_id, by=ann)
    assert stems[0] == stems[1]
