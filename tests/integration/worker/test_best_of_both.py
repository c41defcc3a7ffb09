"""Whole jobs of `best_of_both` through the real service and worker, with tiny models of random weights."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bot.defaults import user_options
from config.settings import load
from engine.backend import backend
from engine.jobs.job import Job, JobStatus
from engine.jobs.models import BEST_OF_BOTH, add_own_models
from engine.jobs.options import StemSeparationOptions
from engine.service.service import StemService
from engine.service.snapshot import ready_models
from tests.fixtures.service_jobs import finish, separating, submit, until, worker_pid
from tests.fixtures.songs import make_song, tune
from tests.fixtures.tiny_models import write_model
from tests.fixtures.tiny_roformers import write_roformer

pytestmark = pytest.mark.asyncio(loop_scope="module")
OWNER = "discord:best"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StemService]:
    folder = tmp_path_factory.mktemp("both")
    write_roformer(folder / "models", "melband_vocals")
    write_model(folder / "models", "htdemucs")
    loaded = load(data_dir=folder / "data", models_dir=folder / "models", retention={"reuse_results": True})
    workers = loaded.workers.model_copy(update={"devices": ["cpu"], "threads": 1, "compile": False})
    async with backend(loaded.model_copy(update={"workers": workers}), with_web=False) as running:
        assert await running.service._pool.wait_ready(100)
        yield running.service
    add_own_models(None)


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("songs") / "song.wav"
    make_song(path, samples=tune(4), bits="f32")
    return path


async def test_better_models_are_the_default_where_they_are(service: StemService) -> None:
    ready = ready_models(service.models())
    assert {"htdemucs", "melband_vocals", BEST_OF_BOTH} <= {*ready} and "htdemucs_ft" not in ready
    for options, model in (
        ({"quality": "best"}, BEST_OF_BOTH),
        ({"quality": "best", "karaoke": True}, "melband_vocals"),
        ({"karaoke": True}, "melband_vocals"),
        ({}, "htdemucs"),
        ({"quality": "best", "model": "htdemucs_ft"}, "htdemucs_ft"),
    ):
        named = {"remove_vocals" if name == "karaoke" else name: value for name, value in options.items()}
        assert StemSeparationOptions.from_user(ready=ready, **named).model == model
        assert user_options(load().discord, service.models(), **options).model == model
    assert StemSeparationOptions.from_user(quality="best").model == "htdemucs_ft"
    assert StemSeparationOptions.from_user(remove_vocals=True).model == "htdemucs"


def check_stems(job: Job) -> None:
    result = job.result
    assert result is not None and result.trust is not None and result.model_used == BEST_OF_BOTH, job.error
    assert [name for name, _ in result.stems] == ["vocals", "drums", "bass", "other"]
    assert result.trust.residual_db is None or result.trust.residual_db < -100
    assert any("melband_vocals separated vocals from the mix" in note for note in result.trust.notes)
    assert any("htdemucs separated drums and bass from what remained" in note for note in result.trust.notes)
    assert result.quality_metrics is None or not result.quality_metrics.validated


async def test_stems_of_both_models_add_up(service: StemService, song: Path) -> None:
    job_id = await submit(service, song, OWNER, model=BEST_OF_BOTH, quality="best")
    seen = [view.job.progress async for view in service.watch(job_id)]
    job = await finish(service, job_id)
    check_stems(job)
    assert seen == sorted(seen)
    repeated = (await service.again(job_id, {}, by=OWNER)).job
    assert repeated.result is not None and repeated.result.separated_at is not None, "the same weights"


async def test_job_survives_the_death_of_its_worker(service: StemService, song: Path) -> None:
    job_id = await submit(service, song, OWNER, model=BEST_OF_BOTH, quality="balanced")
    await until(service, job_id, separating)
    os.kill(worker_pid(service), signal.SIGKILL)
    job = await finish(service, job_id)
    check_stems(job)
    assert job.attempt == 2


async def test_cancelled_job_leaves_nothing(service: StemService, song: Path) -> None:
    job_id = await submit(service, song, OWNER, model=BEST_OF_BOTH, quality="best", output_format="flac")
    await until(service, job_id, separating)
    await service.cancel(job_id, by=OWNER)
    job = await finish(service, job_id)
    assert job.status is JobStatus.FAILED and job.was_cancelled


async def test_slow_model_leaves_room_for_a_fast_one(service: StemService, song: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.wav"
    make_song(long, samples=tune(90))
    slow_id = await submit(service, long, OWNER, model="melband_vocals", quality="best")
    await until(service, slow_id, separating)
    fast = await finish(service, await submit(service, song, "discord:other", model="htdemucs"))
    slow = (await service.get(slow_id)).job
    assert fast.status is JobStatus.COMPLETED and slow.status is JobStatus.PROCESSING
    await service.cancel(slow_id, by=OWNER)
    assert (await finish(service, slow_id)).was_cancelled


async def test_karaoke_needs_the_first_step_only(service: StemService, song: Path) -> None:
    job_id = await submit(service, song, OWNER, model=BEST_OF_BOTH, remove_vocals=True)
    result = (await finish(service, job_id)).result
    assert result is not None and result.trust is not None
    assert [name for name, _ in result.stems] == ["vocals", "instrumental"]
    assert not any("what remained" in note for note in result.trust.notes)
