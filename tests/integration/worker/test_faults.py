"""Faults of the machine under the whole backend: real disks, signals, memory limits and a tiny model.

docs/faults.md lists the expected behaviour. Tests of the disk are skipped without permission to mount.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from config.settings import Settings, load
from engine.backend import backend
from engine.database.errors import StoreBusy
from engine.errors import ConfigurationError, DiskSpaceLow, StorageFailed
from engine.jobs.job import JobStatus
from engine.service.service import StemService
from tests.fixtures.service_jobs import (
    MIB,
    files_of,
    finish,
    separating,
    stopped,
    submit,
    until,
    without_memory,
    worker_pid,
)
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")
NO_MOUNT = "needs permission to mount"


def mounted(*arguments: object) -> bool:
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Mount a disk of 128 MiB; without permission, return an ordinary folder."""
    folder = tmp_path_factory.mktemp("disk")
    is_small = mounted("-t", "tmpfs", "-o", f"size={128 * MIB},mode=700", "tmpfs", folder)
    yield folder
    if is_small:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder)
    write_model(folder, "hdemucs_mmi", signature="bbbb1111")
    write_model(folder, "mdx_extra", signature="cccc2222")
    return folder


class MovableClock:
    def __init__(self) -> None:
        self.off = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.off


@pytest.fixture(scope="module")
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture(scope="module")
def settings(data: Path, models: Path) -> Settings:
    loaded = load(data_dir=data, models_dir=models)
    workers = {"devices": ["cpu"], "threads": 1, "compile": False, "heartbeat_s": 0.5, "heartbeat_timeout_s": 6.0}
    limits = loaded.limits.model_copy(update={"free_disk_bytes": 0})  # the disk is smaller than the default
    return loaded.model_copy(update={"workers": loaded.workers.model_copy(update=workers), "limits": limits})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(
    settings: Settings, clock: MovableClock, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[StemService]:
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # an unused port
    patch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    patch.setattr("engine.dispatch.retry._PAUSES_S", (0.05,))
    async with backend(settings, with_web=False, now=clock) as running:
        async with asyncio.timeout(100):
            while not (await running.service.snapshot()).usable_models:
                await asyncio.sleep(0.05)
        yield running.service
    patch.undo()


@pytest_asyncio.fixture(loop_scope="module")
async def ann(service: StemService, clock: MovableClock, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Return a user with a fresh quota; delete their data afterwards."""
    name = f"discord:{request.node.name}"
    yield name
    clock.off = timedelta()
    await service.delete_all(name)


@pytest.fixture(scope="module")
def short_song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("songs") / "short.wav"
    make_song(path, seconds=0.5)
    return path


@contextmanager
def ballast(data: Path, *, leaving_bytes: int) -> Iterator[None]:
    """Fill the disk, except for `leaving_bytes`."""
    if not data.is_mount():
        pytest.skip(NO_MOUNT)
    path = data / "ballast"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(data).free - leaving_bytes)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    if not mounted("--bind", folder, folder):
        pytest.skip(NO_MOUNT)
    try:
        assert mounted("-o", "remount,ro,bind", folder)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # an attempt may have files open


# The disk.


@pytest.mark.parametrize("leaving_mib", [2, 8])  # full during decoding, full while stems are written
async def test_full_disk_fails_job_and_keeps_input_for_retry(
    service: StemService, data: Path, song: Path, short_song: Path, ann: str, leaving_mib: int
) -> None:
    earlier = await finish(service, await submit(service, short_song, ann))
    with stopped(worker_pid(service)):  # a disk that is full already would refuse the song
        job_id = await submit(service, song, ann)
        full = ExitStack()
        full.enter_context(ballast(data, leaving_bytes=leaving_mib * MIB))
    with full:
        job = await finish(service, job_id)
        assert (job.status, job.error_code, job.attempt) == (JobStatus.FAILED, "disk_full", 1)
        assert job.error is not None and "free some space" in job.error
        assert files_of(data, job.id) == [f"jobs/{job.id}/input"], "no half-written stem"
    assert (await service.get(earlier.id)).job == earlier
    again = await service.retry(job.id, by=ann)
    assert (await finish(service, again.job.id)).status is JobStatus.COMPLETED


async def test_full_disk_refuses_upload_and_keeps_no_part(
    service: StemService, data: Path, song: Path, ann: str
) -> None:
    before = sorted(data.rglob("*"))
    with ballast(data, leaving_bytes=MIB // 2), pytest.raises(DiskSpaceLow):
        await submit(service, song, ann)
    assert [path for path in sorted(data.rglob("*")) if path not in before and "sqlite" not in path.name] == []


async def test_storage_denied_three_times_keeps_input(
    service: StemService, data: Path, short_song: Path, ann: str
) -> None:
    with read_only(data / "scratch"):
        job = await finish(service, await submit(service, short_song, ann))
    assert (job.status, job.error_code, job.attempt) == (JobStatus.FAILED, "storage_failed", 3)
    assert job.error == "The stems could not be stored. It was tried 3 times."
    again = await service.retry(job.id, by=ann)
    assert (await finish(service, again.job.id)).status is JobStatus.COMPLETED


async def test_storage_denied_once_costs_one_attempt(service: StemService, data: Path, song: Path, ann: str) -> None:
    job_id = await submit(service, song, ann)
    with read_only(data / "jobs"):
        await until(service, job_id, lambda job: job.attempt == 2)
    job = await finish(service, job_id)
    assert job.status is JobStatus.COMPLETED and job.attempt in (2, 3)


async def test_unwritable_data_folder_stops_start_with_sentence(
    service: StemService, settings: Settings, data: Path, short_song: Path, ann: str
) -> None:
    with read_only(data / "jobs"), pytest.raises(StorageFailed):
        await submit(service, short_song, ann)
    other = data / "elsewhere"
    with read_only(other), pytest.raises(ConfigurationError, match=r"elsewhere cannot be written: Read-only"):
        async with backend(settings.model_copy(update={"data_dir": other}), with_web=False):
            pass


async def test_locked_database_refuses_new_and_finishes_running(
    service: StemService, data: Path, long_song: Path, short_song: Path, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await submit(service, long_song, ann, output_format="mp3")
    await until(service, job_id, separating)
    monkeypatch.setattr(service._store.database, "_busy_limit_s", 0.5)
    lock = sqlite3.connect(data / "stemify.sqlite3", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    files = sorted((data / "jobs").rglob("*"))
    with pytest.raises(StoreBusy, match=r"locked by another program\. Try again"):
        await submit(service, short_song, ann)
    assert [path for path in sorted((data / "jobs").rglob("*")) if job_id not in str(path)] == [
        path for path in files if job_id not in str(path)
    ]
    assert (await service.get(job_id)).job.status is JobStatus.PROCESSING, "reading still works"
    lock.execute("ROLLBACK")
    lock.close()
    job = await finish(service, job_id)
    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 1)


# The worker.


async def test_hung_worker_is_replaced_and_job_completes(service: StemService, long_song: Path, ann: str) -> None:
    job_id, hanging = await submit(service, long_song, ann, output_format="mp3"), worker_pid(service)
    await until(service, job_id, separating)
    os.kill(hanging, signal.SIGSTOP)
    job = await finish(service, job_id)
    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 2)
    assert worker_pid(service) != hanging


async def test_worker_out_of_memory_is_reported_and_retried(
    service: StemService, data: Path, song: Path, short_song: Path, ann: str
) -> None:
    await finish(service, await submit(service, short_song, ann))  # loads all libraries
    pid = worker_pid(service)
    with without_memory(pid):
        job = await finish(service, await submit(service, song, ann))
    assert (job.status, job.error_code, job.attempt) == (JobStatus.FAILED, "out_of_memory", 3), job.error
    assert job.error is not None and "Try a shorter song" in job.error
    assert files_of(data, job.id) == [f"jobs/{job.id}/input"]
    again = await service.retry(job.id, by=ann)
    assert (await finish(service, again.job.id)).status is JobStatus.COMPLETED
    assert worker_pid(service) == pid, "the worker has not been restarted"


# Models.


async def test_damaged_model_file_fails_job_until_replaced(
    service: StemService, models: Path, short_song: Path, ann: str
) -> None:
    file = models / "bbbb1111.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    job = await finish(service, await submit(service, short_song, ann, model="hdemucs_mmi"))
    assert (job.status, job.error_code, job.attempt) == (JobStatus.FAILED, "model_corrupt", 1)
    assert job.error is not None and "delete it and download it again" in job.error
    file.write_bytes(whole)
    again = await service.retry(job.id, by=ann)
    assert (await finish(service, again.job.id)).status is JobStatus.COMPLETED


async def test_missing_model_file_fails_job_with_advice(
    service: StemService, models: Path, short_song: Path, ann: str, caplog: pytest.LogCaptureFixture
) -> None:
    (models / "cccc2222.safetensors").unlink()
    job = await finish(service, await submit(service, short_song, ann, model="mdx_extra"))
    assert (job.status, job.error_code, job.attempt) == (JobStatus.FAILED, "model_unavailable", 1)
    assert job.error is not None and "mini needs no download" in job.error
    logged = [vars(record).get("told") for record in caplog.records if record.message == "attempt failed"]
    assert logged == [job.error], "the log has the advice too, because Discord does not show it"


async def test_invalid_model_output_fails_job_with_advice(
    service: StemService, data: Path, models: Path, short_song: Path, ann: str
) -> None:
    write_model(models, "htdemucs_ft", signature="dddd3333")
    file = models / "dddd3333.safetensors"
    with safe_open(file, "pt") as weights:
        metadata = weights.metadata()
    state = load_file(file)
    next(iter(state.values())).fill_(float("nan"))
    save_file(state, file, metadata)
    job = await finish(service, await submit(service, short_song, ann, model="htdemucs_ft"))
    assert (job.status, job.error_code, job.attempt) == (JobStatus.FAILED, "soundless_model", 1)
    assert job.error is not None and "Try another model" in job.error
    assert files_of(data, job.id) == [f"jobs/{job.id}/input"]


# The clock.


@pytest.mark.parametrize("days", [-400, 1])
async def test_clock_jump_does_not_lose_jobs(
    service: StemService, clock: MovableClock, long_song: Path, short_song: Path, ann: str, days: int
) -> None:
    running = await submit(service, long_song, ann, output_format="mp3")
    waiting = await submit(service, short_song, ann)
    await until(service, running, separating)
    clock.off += timedelta(days=days)
    later = await submit(service, short_song, ann)
    for job_id in (running, waiting, later):
        assert (await finish(service, job_id)).status is JobStatus.COMPLETED
    listed = await service.list(ann)
    assert {view.job.id for view in listed} == {running, waiting, later}
    assert all(view.links for view in listed)
