"""Whole comparisons of models through the real service and worker, with tiny models of random weights."""

from __future__ import annotations

import os
import signal
from uuid import UUID

import numpy as np
import pytest
import pytest_asyncio

from engine.errors import InvalidState, ModelUnavailable
from engine.jobs.comparison import Comparison, labelled
from engine.jobs.job import Job, JobStatus
from engine.jobs.results import ComparisonResult
from engine.service.service import MixRequest, StemService
from tests.fixtures.service_jobs import files_of, finish, separating, submit, until, worker_pid
from tests.fixtures.songs import make_song, tune
from tests.fixtures.stem_files import tracks

pytestmark = pytest.mark.asyncio(loop_scope="module")
OWNER = "discord:ear"
THREE = ("htdemucs", "hdemucs_mmi", "melband_vocals")
LOUD_FROM_S = 4.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def separated(better_models: StemService, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Separate a song of 40 s, whose first 4 s and last 6 s are quiet."""
    path = tmp_path_factory.mktemp("songs") / "song.wav"
    samples = tune(40)
    samples[:, : round(LOUD_FROM_S * 44100)] *= 0.1
    samples[:, 34 * 44100 :] *= 0.1
    make_song(path, samples=samples, bits="f32")
    return await finish(better_models, await submit(better_models, path, OWNER, model="htdemucs"))


async def compare(service: StemService, job: Job, *models: str, start_s: float | None = None) -> str:
    comparison = Comparison.from_user({"models": models, "startS": start_s})
    return (await service.again(job.id, {"comparison": comparison}, by=job.owner)).job.id


def compared(job: Job) -> ComparisonResult:
    assert job.result is not None and job.result.comparison is not None, job.error
    return job.result.comparison


async def test_models_are_heard_on_the_loudest_half_minute(better_models: StemService, separated: Job) -> None:
    allowance = await better_models.allowance(OWNER)
    job_id = await compare(better_models, separated, *THREE)
    seen = [view.job.progress async for view in better_models.watch(job_id)]
    job = await finish(better_models, job_id)
    result = compared(job)
    assert (result.start_s, result.duration_s) == (LOUD_FROM_S, 30.0) and seen == sorted(seen)
    assert [each.label for each in result.candidates] == ["A", "B", "C"]
    assert {*result.models.values()} == {*THREE}
    left = await better_models.allowance(OWNER)
    assert allowance is not None and left is not None and allowance.left - left.left == 1, "it counts as one job"
    for candidate in result.candidates:
        assert [stem for stem, _ in candidate.stems] == ["vocals", "instrumental"], "what they have in common"
        for stem, info in candidate.stems:
            (samples,) = tracks(better_models._storage.local_path(info.path))
            assert samples.shape == (2, 30 * 44100) and np.abs(samples).max() <= 1
            assert info.filename == f"song - {stem} - {candidate.label}.mp3", "no model is named"
    sent = await better_models.files_within(job, 10 * 2**20)
    assert [(file.name, file.filename) for file in sent] == [
        (f"{label} vocals", f"song - vocals - {label}.mp3") for label in "ABC"
    ]
    again = (await better_models.again(job.id, {"model": "htdemucs"}, by=OWNER)).job
    assert again.result is not None and again.result.separated_at is not None, "the whole song was separated already"
    assert [stem for stem, _ in again.result.stems] == ["vocals", "drums", "bass", "other"]
    with pytest.raises(InvalidState, match="compares models"):
        await better_models.mix(job.id, MixRequest(), by=OWNER)
    data = better_models._storage.root
    assert len(files_of(data, job.id)) == 7, "the song and six files"
    await better_models.delete(job.id, by=OWNER)
    assert files_of(data, job.id) == []


async def test_comparison_survives_the_death_of_its_worker(better_models: StemService, separated: Job) -> None:
    job_id = await compare(better_models, separated, "melband_vocals", "hdemucs_mmi", start_s=39.9)
    await until(better_models, job_id, separating)
    os.kill(worker_pid(better_models), signal.SIGKILL)
    job = await finish(better_models, job_id)
    assert job.attempt == 2 and compared(job).start_s == pytest.approx(10), "an excerpt ends with the song"
    assert compared(job).models == labelled(("melband_vocals", "hdemucs_mmi"), UUID(job_id).int & 0x7FFFFFFF)


async def test_cancelled_comparison_leaves_nothing(better_models: StemService, separated: Job) -> None:
    job_id = await compare(better_models, separated, *THREE)
    await until(better_models, job_id, separating)
    await better_models.cancel(job_id, by=OWNER)
    job = await finish(better_models, job_id)
    assert job.status is JobStatus.FAILED and job.was_cancelled
    assert files_of(better_models._storage.root, job_id) == []


async def test_unusable_models_are_not_compared(better_models: StemService, separated: Job) -> None:
    unusable = next(each.name for each in better_models.models() if not each.usable)
    with pytest.raises(ModelUnavailable, match=unusable):
        await compare(better_models, separated, "htdemucs", unusable)


async def test_comparison_names_the_model_that_cannot_be_downloaded(better_models: StemService, separated: Job) -> None:
    job = await finish(better_models, await compare(better_models, separated, "htdemucs", "htdemucs_6s"))
    assert job.status is JobStatus.FAILED and job.error_code == "model_unavailable"
    assert (
        job.error == "The model htdemucs_6s cannot be used here at the moment, so nothing was compared. Leave it out."
    )
