"""Stems for places with a size limit, encoded again in a real child process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import av
import numpy as np
import pytest

from engine.database.job_store import JobStore
from engine.database.usage import Usage
from engine.errors import StorageFailed
from engine.jobs.job import Job
from engine.jobs.results import StemFiles
from engine.media.decode import decode
from engine.media.encode import StemEncoder
from engine.media.samples import Samples
from engine.service.result_files import ResultFiles
from engine.storage.local import LocalStorage
from tests.fixtures.planted_results import OWNER, RATE, plant
from tests.fixtures.songs import tune

SECONDS = 20
PNG_START = b"\x89PNG\r\n\x1a\n"
STEMS = ("vocals", "drums", "bass", "other")


@asynccontextmanager
async def planted(data: Path, kind: str) -> AsyncIterator[tuple[ResultFiles, JobStore, LocalStorage, Job]]:
    stems = {name: tune(SECONDS, seed=at) for at, name in enumerate(STEMS[:3])} | {"other": quiet()}
    job_id = await plant(data, stems, title="Sunny", kind=kind)
    store, storage = await JobStore.open(data / "stemify.sqlite3"), LocalStorage(data)
    try:
        job = await store.get(job_id)
        assert job is not None and job.result is not None
        yield ResultFiles(store, storage), store, storage, job
    finally:
        await store.close()


async def stored_bytes(store: JobStore) -> int:
    return await Usage(store.database, 0).stored_bytes(OWNER)


def quiet() -> Samples:
    return np.full((2, SECONDS * RATE), 0.001, np.float32)


@pytest.mark.parametrize(("kind", "limit_bytes", "bit_rate"), [
    ("mp3", 500_000, 192_000), ("flac", 900_000, 320_000), ("wav", 345_000, 128_000),
])  # fmt: skip
async def test_large_stems_become_mp3_that_fits(tmp_path: Path, kind: str, limit_bytes: int, bit_rate: int) -> None:
    async with planted(tmp_path / "data", kind) as (files, store, storage, job):
        before = await stored_bytes(store)
        found = await files.within(job, limit_bytes)
        assert await stored_bytes(store) == before + sum(file.size for file in found if file.bit_rate is not None)
        assert [file.name for file in found] == list(STEMS)
        assert found[0].bit_rate == bit_rate and all(file.size <= limit_bytes for file in found)
        assert found[0].filename == "vocals.mp3"
        assert (found[3].bit_rate is None) == (kind == "flac"), "a constant is small as flac"
        async with files.open(found[0]) as path:
            with av.open(path) as container:
                assert container.streams.audio[0].bit_rate == bit_rate
                assert container.metadata["title"] == "Sunny (vocals)"
            raw = tmp_path / "raw"
            decode(path, raw, max_duration_s=60)
            samples = np.fromfile(raw, np.float32).reshape(-1, 2).T
        truth = tune(SECONDS, seed=0)
        assert samples.shape == truth.shape, "not a sample is lost"
        assert np.square(samples - truth).sum() < 0.01 * np.square(truth).sum()
        made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*-*k.mp3")}
        assert await files.within(job, limit_bytes) == found
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*-*k.mp3")} == made, "made once"
        assert list((tmp_path / "data" / "mixing").iterdir()) == []
        await storage.delete_job(job.id)
        assert not (tmp_path / "data" / "jobs" / job.id).exists()


async def test_stem_that_fits_at_no_rate_is_left_out(tmp_path: Path) -> None:
    async with planted(tmp_path / "data", "mp3") as (files, _, _, job):
        assert await files.within(job, 200_000) == []


async def test_stem_that_fits_without_its_cover_is_attached(tmp_path: Path) -> None:
    async with planted(tmp_path / "data", "mp3") as (files, _, storage, job):
        assert job.result is not None and job.result.stems.vocals is not None
        stem = job.result.stems.vocals
        cover = PNG_START + bytes(60_000)
        with StemEncoder(storage.local_path(stem.path), format="mp3", sample_rate=RATE, cover=cover) as encoder:
            encoder.write(tune(SECONDS, seed=0))
        assert encoder.encoded is not None
        large = stem.model_copy(update={"size": encoder.encoded.size_bytes})
        result = job.result.model_copy(update={"stems": StemFiles(vocals=large)})
        (found,) = await files.within(job.model_copy(update={"result": result}), 830_000)
        assert large.size > 830_000 >= found.size and found.bit_rate == 320_000


async def test_end_of_the_attempt_does_not_delete_copies(tmp_path: Path) -> None:
    async with planted(tmp_path / "data", "mp3") as (files, _, storage, job):
        making = asyncio.create_task(files.within(job, 500_000))
        async with asyncio.timeout(60):
            while not list((tmp_path / "data").glob("*/*/*.part")):
                await asyncio.sleep(0.005)
        await storage.tidy_job(job.id, keep_attempt=job.attempt, keep_input=False)
        assert [file.name for file in await making] == list(STEMS)


async def test_deleted_job_gets_no_copies(tmp_path: Path) -> None:
    async with planted(tmp_path / "data", "mp3") as (files, store, storage, job):
        await store.delete(job.id)
        await files.within(job, 500_000)
        assert not (tmp_path / "data" / "jobs" / job.id).exists()
        await storage.delete_job(job.id)
        assert await files.within(job, 500_000) == [], "the stems are gone"
        assert not (tmp_path / "data" / "jobs" / job.id).exists()


async def test_copies_that_cannot_be_stored_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with planted(tmp_path / "data", "mp3") as (files, store, storage, job):
        before = await stored_bytes(store)

        async def fail(_file: Path, _key: str) -> None:
            raise StorageFailed

        monkeypatch.setattr(storage, "publish", fail)
        found = await files.within(job, 500_000)
        assert found == [], "every stem is too large"
        assert await stored_bytes(store) == before
