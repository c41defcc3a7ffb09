"""The backend without a front end: real database, real worker, a tiny model, real audio files."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from config.settings import Settings
from engine.errors import (
    BadLink,
    BrokenAudio,
    DiskSpaceLow,
    EmptyInput,
    InputRefused,
    ModelUnavailable,
    NotAllowed,
    NotAudio,
    NotFound,
    QuotaExceeded,
    TooLarge,
    TooLong,
)
from engine.jobs.entity import new_job_id
from engine.jobs.job import JobStatus
from engine.jobs.options import OutputFormat, StemSeparationOptions
from engine.media.decode import decode
from engine.service.errors import TooShort
from engine.service.service import Link, StemService, Submission
from tests.fixtures.service_jobs import finished, job_files, submission
from tests.fixtures.songs import make_song

pytestmark = pytest.mark.asyncio(loop_scope="module")
BOB = "discord:bob"
OPTIONS = StemSeparationOptions()


def samples_of(path: Path, scratch: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    decoded = decode(path, scratch / "raw", max_duration_s=600)
    return np.fromfile(scratch / "raw", np.float32).reshape(-1, decoded.channels).T


async def test_stems_have_song_length_and_complete_facts(ann: str, service: StemService, tmp_path: Path) -> None:
    song = tmp_path / "a song.mp3"
    make_song(song, seconds=5, tags={"title": "Sunny", "artist": "Band"})
    view = await service.submit(submission(song, ann))
    assert view.job.status is JobStatus.PENDING and view.queue_place == 1 and view.job.title == "Sunny"
    view = await finished(service, view.job.id)
    result = view.job.result
    assert view.job.error is None and result is not None
    stems = dict(result.stems)
    assert set(stems) == {"vocals", "drums", "bass", "other"}
    mix = samples_of(song, tmp_path)
    for name, info in stems.items():
        async with service.open_file(view.job, name) as path:
            assert path.name == info.filename == f"Sunny - {name} - htdemucs.wav"
            assert path.stat().st_size == info.size
            assert samples_of(path, tmp_path).shape == mix.shape
    assert result.processing is not None and result.processing.memory_usage > 100
    assert result.processing.input_file_size == song.stat().st_size
    assert result.file_size == sum(result.processing.output_file_sizes)
    assert result.trust is not None and result.trust.clipped_samples == 0
    assert {link.name for link in view.links} == {*stems, "zip"}
    async with service.open_file(view.job, "waveform") as picture:
        assert picture.read_bytes().startswith(b"\x89PNG")


async def test_residual_on_trust_card_equals_files(ann: str, service: StemService, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=4)
    view = await finished(service, (await service.submit(submission(song, ann))).job.id)
    assert view.job.result is not None and view.job.result.trust is not None
    mix = samples_of(song, tmp_path)
    total = np.zeros_like(mix)
    for name, _ in view.job.result.stems:
        async with service.open_file(view.job, name) as path:
            total += samples_of(path, tmp_path)
    gain = 10 ** (view.job.result.trust.gain_db / 20)
    measured_db = 10 * np.log10(np.sum((mix - total / gain) ** 2) / np.sum(mix**2))
    assert view.job.result.trust.residual_db == pytest.approx(measured_db, abs=0.05)


async def test_karaoke_stems_add_up_to_the_mix(ann: str, service: StemService, tmp_path: Path) -> None:
    song = tmp_path / "song.flac"
    make_song(song, seconds=3)
    view = await finished(service, (await service.submit(submission(song, ann, remove_vocals=True))).job.id)
    assert view.job.result is not None
    stems = dict(view.job.result.stems)
    assert set(stems) == {"vocals", "instrumental"} and view.job.result.stems.drums is None
    mix = samples_of(song, tmp_path)
    total = np.zeros_like(mix)
    for name in stems:
        async with service.open_file(view.job, name) as path:
            total += samples_of(path, tmp_path)
    np.testing.assert_allclose(total, mix, atol=1e-6)


async def test_normalize_sets_loudest_peak_to_minus_one_dbfs(ann: str, service: StemService, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=3)
    view = await finished(service, (await service.submit(submission(song, ann, normalize=True))).job.id)
    assert view.job.result is not None
    peaks = [info.peak_db for _, info in view.job.result.stems if info.peak_db is not None]
    assert max(peaks) == pytest.approx(-1.0, abs=0.02)


@pytest.mark.parametrize("output_format", [*OutputFormat])
async def test_output_format_keeps_song_length(
    ann: str, service: StemService, tmp_path: Path, output_format: OutputFormat
) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=2.5)
    view = await finished(service, (await service.submit(submission(song, ann, output_format=output_format))).job.id)
    assert view.job.result is not None
    async with service.open_file(view.job, "drums") as path:
        assert path.suffix == f".{output_format.of_stems}"
        assert samples_of(path, tmp_path).shape == samples_of(song, tmp_path).shape


async def test_same_job_id_gives_same_samples(ann: str, service: StemService, tmp_path: Path) -> None:
    """Separate twice under one id, from which the seed is made."""
    song = tmp_path / "song.wav"
    make_song(song, seconds=2)
    job_id, stems = new_job_id(), []
    for _ in range(2):
        view = await finished(
            service, (await service.submit(submission(song, ann, quality="best", job_id=job_id))).job.id
        )
        async with service.open_file(view.job, "bass") as path:
            stems.append(path.read_bytes())
        await service.delete(job_id, by=ann)
    assert stems[0] == stems[1]


async def refused(service: StemService, settings: Settings, request: Submission, kind: type[InputRefused]) -> None:
    """Check that the request is refused with a message and leaves no job and no file."""
    before = job_files(settings)
    with pytest.raises(kind) as caught:
        await service.submit(request)
    assert len(caught.value.message) > 25 and caught.value.message.endswith((".", "!"))
    assert await service.list(request.owner) == []
    assert job_files(settings) == before


async def test_bad_input_is_refused_and_leaves_nothing(
    ann: str, service: StemService, settings: Settings, tmp_path: Path
) -> None:
    empty, text, cut = tmp_path / "empty.mp3", tmp_path / "text.mp3", tmp_path / "cut.mp3"
    large, long_one = tmp_path / "large.wav", tmp_path / "long.flac"
    empty.touch()
    text.write_text("this is not a song\n" * 1000)
    make_song(tmp_path / "whole.mp3", seconds=8)
    cut.write_bytes((tmp_path / "whole.mp3").read_bytes()[:40_000])
    with large.open("wb") as file:
        file.truncate(51 << 20)
    make_song(long_one, seconds=601, sample_rate=8000, channels=1)
    for path, kind in (
        (empty, EmptyInput), (text, NotAudio), (cut, BrokenAudio), (large, TooLarge), (long_one, TooLong),
    ):  # fmt: skip
        await refused(service, settings, submission(path, ann), kind)
    link = Submission(Link("https://example.com/watch?v=dQw4w9WgXcQ"), StemSeparationOptions(), owner=ann)
    await refused(service, settings, link, BadLink)
    whole = replace(submission(tmp_path / "whole.mp3", ann), min_duration_s=9)
    await refused(service, settings, whole, TooShort)


async def test_unusable_model_is_refused_with_reason(
    ann: str, service: StemService, settings: Settings, tmp_path: Path
) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=1)
    await asyncio.wait_for(_until_models_are_known(service), 30)
    before = job_files(settings)
    with pytest.raises(ModelUnavailable, match="diffq"):
        await service.submit(submission(song, ann, model="mdx_extra_q"))
    assert job_files(settings) == before


async def _until_models_are_known(service: StemService) -> None:
    while all(choice.usable for choice in service.models()):
        await asyncio.sleep(0.05)


async def test_sixth_job_in_an_hour_is_refused_with_retry_time(
    ann: str, service: StemService, settings: Settings, tmp_path: Path
) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=0.5)
    for _ in range(settings.limits.jobs_per_hour):
        await service.submit(submission(song, ann))
    with pytest.raises(QuotaExceeded) as caught:
        await service.submit(submission(song, ann))
    assert 0 < caught.value.retry_after_s <= 3600
    await service.submit(submission(song, BOB))


async def test_nearly_full_disk_is_reserved_for_accepted_jobs(
    ann: str, service: StemService, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=1)
    monkeypatch.setattr(service._intake._admission._disk_space, "reserve_bytes", 2**62)
    job_id = new_job_id()
    for request in (
        submission(song, ann, job_id=job_id),
        Submission(Link("https://youtu.be/dQw4w9WgXcQ"), OPTIONS, ann),
    ):
        with pytest.raises(DiskSpaceLow, match="short of disk space"):
            await service.submit(request)
    assert [path for path in job_files(settings) if job_id in path] == []
    monkeypatch.undo()
    view = await finished(service, (await service.submit(submission(song, ann))).job.id)
    assert view.job.status is JobStatus.COMPLETED


async def test_only_owner_may_change_job(ann: str, service: StemService, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=1)
    job_id = (await service.submit(submission(song, ann))).job.id
    for act in (service.cancel, service.delete, service.retry, service.keep):
        with pytest.raises(NotAllowed):
            await act(job_id, by=BOB)
    with pytest.raises(NotFound):
        await service.get(new_job_id())
    with pytest.raises(NotFound):
        await service.get("../../etc/passwd")


async def test_delete_of_running_job_removes_row_and_files(
    ann: str, service: StemService, settings: Settings, tmp_path: Path
) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=20)
    job_id = (await service.submit(submission(song, ann))).job.id
    async with asyncio.timeout(30):
        async for view in service.watch(job_id):
            if view.job.progress > 10:
                break
    await service.delete(job_id, by=ann)
    with pytest.raises(NotFound):
        await service.get(job_id)
    assert [path for path in job_files(settings) if job_id in path] == []


async def test_kept_stems_do_not_expire(ann: str, service: StemService, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=1)
    view = await finished(service, (await service.submit(submission(song, ann))).job.id)
    assert view.links_expire_at is not None
    assert (await service.keep(view.job.id, by=ann)).links_expire_at is None


async def test_watch_yields_stages_in_order_until_end(ann: str, service: StemService, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=6)
    job_id = (await service.submit(submission(song, ann))).job.id
    views = [view async for view in service.watch(job_id)]
    progress = [view.job.progress for view in views]
    assert progress == sorted(progress) and progress[-1] == 100
    assert views[0].job.status in (JobStatus.PENDING, JobStatus.PROCESSING)
    assert views[-1].job.status is JobStatus.COMPLETED
    assert len({view.job.stage for view in views}) > 2


async def test_disconnect_while_storing_leaves_whole_job(
    ann: str, service: StemService, settings: Settings, tmp_path: Path
) -> None:
    song = tmp_path / "song.wav"
    make_song(song, seconds=1)
    job_id = new_job_id()
    async with service._store.database._writing:  # the job has to wait for the database
        submitting = asyncio.create_task(service.submit(submission(song, ann, job_id=job_id)))
        async with asyncio.timeout(60):
            while not service._store.database._writing._waiters:
                await asyncio.sleep(0.01)
        submitting.cancel()
        await asyncio.sleep(0.1)
    with pytest.raises(asyncio.CancelledError):
        await submitting
    service._dispatcher.wake()
    assert (await finished(service, job_id)).job.status is JobStatus.COMPLETED
