"""Whole jobs of `best_of_both` through the real service and worker, with tiny models of random weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bot.defaults import user_options
from config.settings import load
from engine.jobs.job import Job, JobStatus
from engine.jobs.models import BEST_OF_BOTH
from engine.jobs.options import StemSeparationOptions
from engine.service.service import StemService
from engine.service.snapshot import ready_models
from tests.fixtures.service_jobs import finish, separating, submit, until, worker_pid
from tests.fixtures.songs import make_song, tune

pytestmark = pytest.mark.asyncio(loop_scope="module")
OWNER = "discord:best"


async def test_better_models_are_the_default_where_they_are(better_models: StemService) -> None:
    ready = ready_models(better_models.models())
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
        assert user_options(load().discord, better_models.models(), **options).model == model
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


async def test_stems_of_both_models_add_up(better_models: StemService, tune_song: Path) -> None:
    job_id = await submit(better_models, tune_song, OWNER, model=BEST_OF_BOTH, quality="best")
    seen = [view.job.progress async for view in better_models.watch(job_id)]
    job = await finish(better_models, job_id)
    check_stems(job)
    assert seen == sorted(seen)
    repeated = (await better_models.again(job_id, {}, by=OWNER)).job
    assert repeated.result is not None and repeated.result.separated_at is not None, "the same weights"


async def test_job_survives_the_death_of_its_worker(better_models: StemService, tune_song: Path) -> None:
    job_id = await submit(better_models, tune_song, OWNER, model=BEST_OF_BOTH, quality="balanced")
    await until(better_models, job_id, separating)
    os.kill(worker_pid(better_models), signal.SIGKILL)
    job = await finish(better_models, job_id)
    check_stems(job)
    assert job.attempt == 2


async def test_cancelled_job_leaves_nothing(better_models: StemService, tune_song: Path) -> None:
    job_id = await submit(better_models, tune_song, OWNER, model=BEST_OF_BOTH, quality="best", output_format="flac")
    await until(better_models, job_id, separating)
    await better_models.cancel(job_id, by=OWNER)
    job = await finish(better_models, job_id)
    assert job.status is JobStatus.FAILED and job.was_cancelled


async def test_slow_model_leaves_room_for_a_fast_one(
    better_models: StemService, tune_song: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.wav"
    make_song(long, samples=tune(90))
    slow_id = await submit(better_models, long, OWNER, model="melband_vocals", quality="best")
    await until(better_models, slow_id, separating)
    fast = await finish(better_models, await submit(better_models, tune_song, "discord:other", model="htdemucs"))
    slow = (await better_models.get(slow_id)).job
    assert fast.status is JobStatus.COMPLETED and slow.status is JobStatus.PROCESSING
    await better_models.cancel(slow_id, by=OWNER)
    assert (await finish(better_models, slow_id)).was_cancelled


async def test_karaoke_needs_the_first_step_only(better_models: StemService, tune_song: Path) -> None:
    job_id = await submit(better_models, tune_song, OWNER, model=BEST_OF_BOTH, remove_vocals=True)
    result = (await finish(better_models, job_id)).result
    assert result is not None and result.trust is not None
    assert [name for name, _ in result.stems] == ["vocals", "instrumental"]
    assert not any("what remained" in note for note in result.trust.notes)
