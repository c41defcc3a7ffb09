"""Failed jobs are tried again: at what cost, by whom, how often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from config.settings import Settings
from engine.backend import backend
from engine.errors import (
    InvalidState,
    NotAllowed,
    QuotaExceeded,
    UnknownModel,
)
from engine.jobs.job import JobStatus, JobView
from engine.service.service import StemService
from tests.fixtures.service_jobs import finished, submission
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def failed_for_its_model(
    ann: str, settings: Settings, tmp_path: Path
) -> AsyncIterator[tuple[StemService, JobView]]:
    """Yield a failed job that used up the quota; its model file, in `own models`, is damaged."""
    song, models = tmp_path / "song.wav", tmp_path / "own models"
    make_song(song, seconds=1)
    write_model(models)
    weights = next(models.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    one_an_hour = settings.limits.model_copy(update={"jobs_per_hour": 1})
    changed = settings.model_copy(update={"limits": one_an_hour, "models_dir": models, "data_dir": tmp_path / "data"})
    async with backend(changed, with_web=False) as opened:
        failed = await finished(opened.service, (await opened.service.submit(submission(song, ann))).job.id)
        assert (failed.job.status, failed.job.error_code) == (JobStatus.FAILED, "model_corrupt")
        yield opened.service, failed


async def test_failed_job_is_retried_free_completed_is_not(ann: str, settings: Settings, tmp_path: Path) -> None:
    async with failed_for_its_model(ann, settings, tmp_path) as (service, view):
        write_model(tmp_path / "own models")
        again = await finished(service, (await service.retry(view.job.id, by=ann)).job.id)
        assert again.job.status is JobStatus.COMPLETED and again.job.retry_of == view.job.id
        for done in (again.job.id, view.job.id):  # a completed job, and a failed one for the second time
            with pytest.raises(InvalidState):
                await service.retry(done, by=ann)


async def test_failed_model_retry_with_other_model_is_free(ann: str, settings: Settings, tmp_path: Path) -> None:
    async with failed_for_its_model(ann, settings, tmp_path) as (service, failed):
        with pytest.raises(UnknownModel):
            await service.retry(failed.job.id, by=ann, model="none of ours")
        with pytest.raises(NotAllowed):
            await service.retry(failed.job.id, by="somebody else", model="mini")
        again = await finished(service, (await service.retry(failed.job.id, by=ann, model="mini")).job.id)
        assert again.job.result is not None and again.job.result.model_used == "mini"
        assert again.job.options == failed.job.options.model_copy(update={"model": "mini"})
        assert again.job.estimated_duration <= failed.job.estimated_duration
        with pytest.raises(InvalidState, match="already retried successfully"):
            await service.retry(failed.job.id, by=ann)


async def test_retries_beyond_three_a_day_cost_like_any_job(ann: str, settings: Settings, tmp_path: Path) -> None:
    async with failed_for_its_model(ann, settings, tmp_path) as (service, view):
        root_id = view.job.id
        for _ in range(3):  # each retries the retry before it
            view = await finished(service, (await service.retry(view.job.id, by=ann)).job.id)
            assert view.job.status is JobStatus.FAILED and view.job.retry_of == root_id
        await service._store.database.write(service._intake._quota.spend_in(ann))  # the failed jobs cost nothing
        for failed_id in (root_id, view.job.id):
            with pytest.raises(QuotaExceeded, match="3 free retries"):
                await service.retry(failed_id, by=ann)
        await service.delete(root_id, by=ann)
        with pytest.raises(QuotaExceeded):
            await service.retry(view.job.id, by=ann)


async def test_second_successful_retry_is_refused(ann: str, settings: Settings, tmp_path: Path) -> None:
    async with failed_for_its_model(ann, settings, tmp_path) as (service, root):
        failed = await finished(service, (await service.retry(root.job.id, by=ann)).job.id)
        write_model(tmp_path / "own models")
        done = await finished(service, (await service.retry(root.job.id, by=ann)).job.id)
        assert done.job.status is JobStatus.COMPLETED
        with pytest.raises(InvalidState, match="already retried successfully"):
            await service.retry(failed.job.id, by=ann)
