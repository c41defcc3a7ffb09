"""Whole jobs with models of two stems: real files through the real service and worker, with tiny RoFormers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from config.settings import load
from engine.backend import backend
from engine.errors import BadOptions
from engine.jobs.job import Job
from engine.jobs.models import add_own_models
from engine.jobs.options import StemSeparationOptions
from engine.jobs.roformer_config import RoFormerConfig
from engine.mixes.entities import MixFormat, MixRequest
from engine.service.service import StemService, Submission, Upload
from tests.fixtures.songs import make_song, tune
from tests.fixtures.tiny_roformers import VOCALS, write_roformer

pytestmark = pytest.mark.asyncio(loop_scope="module")

DRUMS = RoFormerConfig(VOCALS.window_samples, 441, ("drums", "other"), "drums")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StemService]:
    folder = tmp_path_factory.mktemp("two")
    write_roformer(folder / "models", "melband_vocals", VOCALS)
    write_roformer(folder / "models", "my-drums", DRUMS, ending=".ckpt")
    loaded = load(data_dir=folder / "data", models_dir=folder / "models")
    workers = loaded.workers.model_copy(update={"devices": ["cpu"], "threads": 1, "compile": False})
    async with backend(loaded.model_copy(update={"workers": workers}), with_web=False) as running:
        yield running.service
    add_own_models(None)


async def completed(service: StemService, folder: Path, **options: object) -> Job:
    song = folder / "song.wav"
    make_song(song, samples=tune(3), bits="f32")

    async def read_blocks() -> AsyncIterator[bytes]:
        yield song.read_bytes()

    chosen = StemSeparationOptions.from_user(quality="balanced", output_format="wav", **options)  # type: ignore[arg-type]
    view = await service.submit(Submission(Upload(song.name, read_blocks()), chosen, owner=f"discord:{song}"))
    view = [each async for each in service.watch(view.job.id)][-1]
    assert view.job.result is not None, view.job.error
    return view.job


@pytest.mark.parametrize(
    ("model", "karaoke", "names"),
    [
        ("melband_vocals", False, ["vocals", "instrumental"]),
        ("melband_vocals", True, ["vocals", "instrumental"]),
        ("my-drums", False, ["drums", "other"]),
    ],
)
async def test_two_stems_add_up_to_the_song(
    service: StemService, tmp_path: Path, model: str, karaoke: bool, names: list[str]
) -> None:
    job = await completed(service, tmp_path, model=model, remove_vocals=karaoke)
    result = job.result
    assert result is not None and result.trust is not None and result.trust.residual_db is not None
    assert [name for name, _ in result.stems] == names and result.trust.residual_db < -100
    assert result.quality_metrics is None or not result.quality_metrics.validated
    assert all(model in info.filename and info.level_db is not None for _, info in result.stems)
    assert result.trust.segments > 12, "windows of a quarter of a second"


async def test_mix_of_both_stems_is_the_song(service: StemService, tmp_path: Path) -> None:
    job = await completed(service, tmp_path, model="melband_vocals")
    made = await service.mix(job.id, MixRequest(format=MixFormat.WAV), by=job.owner)
    assert made.size > 0
    with pytest.raises(BadOptions, match="drums"):
        await service.mix(job.id, MixRequest(gains={"drums": 0.0}), by=job.owner)


async def test_costs_are_those_measured_here(service: StemService) -> None:
    assert await service.measured_costs() == {}
    await service._store.speeds.learn("mini", "balanced", service._pool.device, processing_s=10, audio_s=100)
    assert await service.measured_costs() == {"mini": 0.1}


async def test_models_are_listed_with_their_stems(service: StemService) -> None:
    choices = {choice.name: choice for choice in service.models()}
    assert choices["melband_vocals"].is_downloaded and choices["melband_vocals"].info.licence == "MIT"
    assert choices["my-drums"].usable and choices["my-drums"].info.stems == ("drums", "other")


@pytest.mark.parametrize(
    ("model", "stems"), [("melband_vocals", "vocals and instrumental"), ("my-drums", "drums and other")]
)
async def test_stem_file_of_two_stems_is_refused(service: StemService, model: str, stems: str) -> None:
    with pytest.raises(BadOptions, match=f"{model} gives {stems}"):
        StemSeparationOptions.from_user(model=model, output_format="stem")


async def test_karaoke_without_vocals_is_refused(service: StemService) -> None:
    with pytest.raises(BadOptions, match="Karaoke needs vocals, and my-drums gives drums and other"):
        StemSeparationOptions.from_user(model="my-drums", remove_vocals=True)
