"""A link through the whole backend, with an unmodified yt-dlp and a fake YouTube."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import av
import pytest
import pytest_asyncio

from config.settings import load
from engine.backend import Backend, backend
from engine.errors import QuotaExceeded
from engine.jobs.job import JobStatus, JobView, Stage
from engine.jobs.options import OutputFormat, StemSeparationOptions
from engine.service.service import Link, StemService, Submission
from tests.fakes.youtube import FakeYoutube, Video
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

OPTIONS = StemSeparationOptions(model="htdemucs", output_format=OutputFormat.FLAC)


pytestmark = pytest.mark.asyncio(loop_scope="module")  # one backend for all tests: its worker takes a while to start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backend")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fake(folder: Path) -> AsyncIterator[FakeYoutube]:
    async with FakeYoutube(folder) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_backend(fake: FakeYoutube, folder: Path) -> AsyncIterator[Backend]:
    write_model(folder / "weights")
    settings = load(
        data_dir=folder / "data",
        models_dir=folder / "weights",
        youtube={"proxy": fake.proxy_url, "ca_file": fake.ca_file},
        workers={"devices": ["cpu"], "threads": 1},
        limits={"input_duration_s": 5.0},
    )
    async with backend(settings, with_web=False) as opened:
        yield opened


async def submit(service: StemService, text: str) -> JobView:
    return await service.submit(Submission(Link(text), OPTIONS, owner="local"))


async def end_of(service: StemService, view: JobView) -> JobView:
    async with contextlib.aclosing(service.watch(view.job.id)) as states:
        return [state async for state in states][-1]


async def test_link_in_message_becomes_stems_with_video_title(
    fake: FakeYoutube, running_backend: Backend, tmp_path: Path
) -> None:
    mix = make_song(tmp_path / "song.webm", seconds=3, sample_rate=48000)
    media = (tmp_path / "song.webm").read_bytes()
    fake.add(Video("dQw4w9WgXcQ", media=media, title="Sunny", channel="Ann - Topic"))
    view = await submit(running_backend.service, "please split https://youtu.be/dQw4w9WgXcQ?list=PL1, thanks!")
    assert view.job.input_source == "https://www.youtube.com/watch?v=dQw4w9WgXcQ"
    view = await end_of(running_backend.service, view)
    assert view.job.status is JobStatus.COMPLETED, view.job.error
    assert (view.job.title, view.job.artist) == ("Sunny", "Ann")
    assert view.job.result is not None
    stems = dict(view.job.result.stems)
    assert set(stems) == {"vocals", "drums", "bass", "other"}
    async with running_backend.service.open_file(view.job, "vocals") as path:
        with av.open(path) as container:
            assert container.metadata["ARTIST" if "ARTIST" in container.metadata else "artist"] == "Ann"
            rate = container.streams.audio[0].rate
            samples = sum(frame.samples for frame in container.decode(audio=0))
    assert abs(samples / rate - mix.shape[-1] / 48000) < 0.05
    assert "Sunny" in stems["vocals"].filename


async def test_video_is_downloaded_and_separated_once(fake: FakeYoutube, folder: Path, tmp_path: Path) -> None:
    make_song(tmp_path / "song.webm", seconds=2, sample_rate=48000)
    fake.add(Video("dQw4w9WgXcQ", media=(tmp_path / "song.webm").read_bytes(), title="Sunny"))
    settings = load(
        data_dir=tmp_path / "data",
        models_dir=folder / "weights",
        youtube={"proxy": fake.proxy_url, "ca_file": fake.ca_file},
        workers={"devices": ["cpu"], "threads": 1, "compile": False},
        limits={"jobs_per_hour": 2},
        retention={"reuse_results": True},
    )
    async with backend(settings, with_web=False) as opened:
        service = opened.service
        first = await end_of(service, await submit(service, "https://youtu.be/dQw4w9WgXcQ"))
        assert first.job.status is JobStatus.COMPLETED, first.job.error
        downloads = len(fake.media_seen)
        again = await service.again(first.job.id, {"output_format": "wav"}, by="local")
        assert (await end_of(service, again)).job.status is JobStatus.COMPLETED
        repeat = await submit(service, "https://www.youtube.com/watch?v=dQw4w9WgXcQ")  # the quota is spent
        assert (repeat.job.status, repeat.job.title) == (JobStatus.COMPLETED, "Sunny")
        assert len(fake.media_seen) == downloads
        await service.delete(first.job.id, by="local")
        async with service.open_file(repeat.job, "vocals") as path:
            assert path.stat().st_size > 0
        with pytest.raises(QuotaExceeded):
            await service.again(repeat.job.id, {"normalize": True}, by="local")


async def test_video_longer_than_declared_is_refused(
    fake: FakeYoutube, running_backend: Backend, folder: Path, tmp_path: Path
) -> None:
    make_song(tmp_path / "song.webm", seconds=8, sample_rate=48000)
    fake.add(Video("dQw4w9WgXcQ", media=(tmp_path / "song.webm").read_bytes(), duration_s=3))
    view = await end_of(running_backend.service, await submit(running_backend.service, "https://youtu.be/dQw4w9WgXcQ"))
    assert (view.job.status, view.job.error_code) == (JobStatus.FAILED, "too_long")
    assert not list((folder / "data" / "scratch").iterdir())


async def test_cancel_ends_stalled_download(
    fake: FakeYoutube, running_backend: Backend, folder: Path, tmp_path: Path
) -> None:
    make_song(tmp_path / "song.webm", seconds=3, sample_rate=48000)
    fake.add(Video("dQw4w9WgXcQ", media=(tmp_path / "song.webm").read_bytes(), behaviour="stall"))
    before = len(fake.media_seen)
    view = await submit(running_backend.service, "https://youtu.be/dQw4w9WgXcQ")
    async with asyncio.timeout(30):
        while len(fake.media_seen) == before:
            await asyncio.sleep(0.02)
    assert (await running_backend.service.get(view.job.id)).job.stage is Stage.FETCHING
    await running_backend.service.cancel(view.job.id, by="local")
    view = await end_of(running_backend.service, view)
    assert view.job.error_code == "cancelled"
    assert not list((folder / "data" / "scratch").iterdir())
