"""The quality estimate of whole jobs: real files through the real service and worker, with a tiny model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from bot.cards.trust_card import trust_card_lines
from config.settings import load
from engine.backend import backend
from engine.cli.terminal import trust_lines
from engine.jobs.options import StemSeparationOptions
from engine.jobs.results import JobResult
from engine.service.service import StemService, Submission, Upload
from tests.fixtures.songs import Samples, make_song, silence, tune
from tests.fixtures.tiny_models import write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StemService]:
    folder = tmp_path_factory.mktemp("quality")
    write_model(folder / "models")
    loaded = load(data_dir=folder / "data", models_dir=folder / "models")
    workers = loaded.workers.model_copy(update={"devices": ["cpu"], "threads": 1, "compile": False})
    async with backend(loaded.model_copy(update={"workers": workers}), with_web=False) as running:
        yield running.service


async def result_of(service: StemService, folder: Path, samples: Samples, **options: object) -> JobResult:
    """Separate a song of these samples, as a new user each time, and return the result."""
    song = folder / f"{len(list(folder.iterdir()))}.wav"
    make_song(song, samples=samples, bits="f32")

    async def read_blocks() -> AsyncIterator[bytes]:
        yield song.read_bytes()

    parsed = StemSeparationOptions.model_validate({"quality": "fast", "output_format": "wav", **options})
    view = await service.submit(Submission(Upload(song.name, read_blocks()), parsed, owner=f"discord:{song}"))
    view = [each async for each in service.watch(view.job.id)][-1]
    assert view.job.result is not None, view.job.error
    return view.job.result


async def test_estimate_does_not_depend_on_output_format(service: StemService, tmp_path: Path) -> None:
    loud = tune(4) * np.float32(2.5)  # some stems clip, so a common gain applies
    first = await result_of(service, tmp_path, loud)
    assert first.quality_metrics is not None and not first.quality_metrics.validated
    assert first.quality_metrics.overall_score <= 0.35, "the weights are untrained"
    for lines in (trust_lines(first), trust_card_lines(first)):
        assert "unvalidated" in " ".join(lines) and "The separation failed" in " ".join(lines)
    for options in ({"output_format": "mp3"}, {"output_format": "flac", "normalize": True}):
        again = await result_of(service, tmp_path, loud, **options)
        assert again.quality_metrics == first.quality_metrics


async def test_estimate_does_not_depend_on_gain(service: StemService, tmp_path: Path) -> None:
    song = tune(4)
    plain, quiet = [
        (await result_of(service, tmp_path, song * np.float32(gain))).quality_metrics for gain in (1.0, 0.02)
    ]
    assert plain is not None and quiet is not None
    for name in ("overall_score", "vocal_isolation", "drum_separation", "bass_isolation", "artifact_reduction"):
        assert getattr(quiet, name) == pytest.approx(getattr(plain, name), abs=0.02), name


@pytest.mark.parametrize("karaoke", [False, True])
async def test_odd_songs_get_estimate_or_reason(service: StemService, tmp_path: Path, karaoke: bool) -> None:
    rng = np.random.default_rng(0)
    nothing = await result_of(service, tmp_path, silence(3), remove_vocals=karaoke)
    assert nothing.quality_metrics is None and nothing.trust is not None
    assert any("quality was not estimated" in note for note in nothing.trust.notes)
    odd = {
        "noise": rng.normal(0, 0.1, (2, 3 * 44100)).astype(np.float32),
        "sine": np.sin(np.arange(3 * 44100) * 0.06)[None].repeat(2, 0).astype(np.float32) / 2,
        "one second, mono": tune(1, channels=1),
    }
    for name, samples in odd.items():
        result = await result_of(service, tmp_path, samples, remove_vocals=karaoke)
        assert "NaN" not in result.model_dump_json(), name
        assert result.trust is not None
        if result.quality_metrics is None:
            assert any("quality was not estimated" in note for note in result.trust.notes), name
        else:
            assert result.quality_metrics.low_confidence and 0 <= result.quality_metrics.overall_score <= 1


OFFSETS = {  # by channel
    "1 %": (0.01, 0.01),
    "3 %": (0.03, 0.03),
    "40 %": (0.4, 0.4),
    "negative": (-0.1, -0.1),
    "another in each channel": (0.05, -0.02),
}


@pytest.mark.parametrize("name", OFFSETS)
async def test_constant_offset_is_in_no_stem_and_is_reported(service: StemService, tmp_path: Path, name: str) -> None:
    song = tune(4) * np.float32(0.8)
    song -= song.mean(1, keepdims=True)
    shifted = song + np.array(OFFSETS[name], dtype=np.float32)[:, None]
    plain = (await result_of(service, tmp_path, song, model="mini")).trust
    result = await result_of(service, tmp_path, shifted, model="mini")
    trust = result.trust
    assert plain is not None and plain.residual_db is not None and plain.offset == 0
    assert trust is not None and trust.residual_db == pytest.approx(plain.residual_db, abs=0.3)
    assert trust.offset == pytest.approx(max(map(abs, OFFSETS[name])), abs=1e-3)
    assert any(line.startswith("offset ") for line in trust_lines(result))
    assert "offset: up to" in "\n".join(trust_card_lines(result))


@pytest.mark.parametrize("options", [{"remove_vocals": True}, {"normalize": True}])
async def test_offset_does_not_change_levels_of_stems(
    service: StemService, tmp_path: Path, options: dict[str, bool]
) -> None:
    song = tune(4, channels=1)
    plain = await result_of(service, tmp_path, song, **options)
    shifted = await result_of(service, tmp_path, song + np.float32(0.3), **options)
    for stem, info in plain.stems:
        level_db = getattr(shifted.stems, stem).level_db
        assert level_db == pytest.approx(info.level_db, abs=0.1), stem


async def test_constant_alone_gives_silent_stems(service: StemService, tmp_path: Path) -> None:
    result = await result_of(service, tmp_path, silence(3) + np.float32(0.3))
    assert result.trust is not None and result.trust.offset == pytest.approx(0.3, abs=1e-4)
    assert all(info.level_db is None or info.level_db < -90 for _, info in result.stems)
