"""Jobs and links with files in object storage, also during outages."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import obstore
import pytest

from config.settings import load
from engine.backend import backend
from engine.errors import StorageUnavailable
from engine.jobs.entity import new_job_id
from engine.jobs.job import JobStatus, JobView
from engine.jobs.options import StemSeparationOptions
from engine.service.submission import Submission, Upload
from engine.storage.object_store import ObjectStorage
from tests.fakes.object_store import (
    SECRET_KEY,
    S3Server,
    object_storage,
    s3_server,
    storage_settings,
)
from tests.fixtures.service_jobs import stream
from tests.fixtures.songs import make_song
from tests.fixtures.web_backend import open_web_server
from tests.integration.conftest import PoolMaker
from tests.integration.dispatch.conftest import open_backend


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("swift") / "swift") as server:
        server.create_bucket()
        yield server


def keys(storage: ObjectStorage, job_id: str) -> list[str]:
    return sorted(key.removeprefix(f"jobs/{job_id}/") for key in storage._bucket.keys(f"jobs/{job_id}"))


async def test_job_in_bucket_is_served_by_signed_links(
    server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "engine")
    defaults = load(data_dir=tmp_path / "data")
    web = defaults.web.model_copy(update={"port": 0})
    settings = defaults.model_copy(update={"storage": storage_settings(server), "web": web})
    looking = object_storage(server, tmp_path / "looking")
    song = tmp_path / "Sunny.wav"
    make_song(song, seconds=2)
    options = StemSeparationOptions.model_validate({"model": "mini", "quality": "fast", "output_format": "flac"})
    async with backend(settings) as house, aiohttp.ClientSession() as http:
        asked = await house.service.submit(Submission(Upload(song.name, stream(song)), options, owner="ip:127.0.0.1"))
        job_id = asked.job.id
        assert keys(looking, job_id) == ["input"]
        async with asyncio.timeout(100):
            view = [view async for view in house.service.watch(job_id)][-1]
        assert view.job.status is JobStatus.COMPLETED and view.job.result is not None, view.job.error
        stems = dict(view.job.result.stems)
        names = sorted(
            f"a1/{name}" for name in [*(info.filename for info in stems.values()), "peaks.json", "waveform.png"]
        )
        assert keys(looking, job_id) == [*names, "input"]
        assert [path for path in (tmp_path / "data" / "jobs").rglob("*") if path.is_file()] == []
        links = {link.name: link.url for link in view.links}
        contents = {}
        for name, info in stems.items():
            async with http.get(links[name]) as response:
                assert [hop.status for hop in response.history] == [302]
                assert str(response.url).startswith(server.url)
                contents[info.filename] = await response.read()
                assert len(contents[info.filename]) == info.size and contents[info.filename].startswith(b"fLaC")
            async with house.service.open_file(view.job, name) as path:
                assert path.name == info.filename and path.read_bytes() == contents[info.filename]
        async with http.get(links["zip"]) as response:
            with zipfile.ZipFile(io.BytesIO(await response.read())) as archive:
                assert {name: archive.read(name) for name in archive.namelist()} == contents
        async with http.get(f"{house.web_url}/jobs/{job_id}/player.json") as response:
            player = json.loads(await response.read())
        async with http.get(f"{house.web_url}{player['files']['vocals']}", headers={"Range": "bytes=4-99"}) as response:
            assert (response.status, response.history) == (206, ())
            assert await response.read() == contents[stems["vocals"].filename][4:100]
        await house.service.delete(job_id, by="ip:127.0.0.1")
        assert keys(looking, job_id) == []
        async with http.get(links["vocals"]) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "not_found")
        arguments = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _readable(path)]
        assert not any(SECRET_KEY.encode() in line for line in arguments)
    assert SECRET_KEY not in caplog.text and "X-Amz-Signature" not in caplog.text


async def test_repeat_in_bucket_has_objects_of_its_job(server: S3Server, tmp_path: Path) -> None:
    settings = load(data_dir=tmp_path / "data", retention={"reuse_results": True}, workers={"compile": False})
    settings = settings.model_copy(update={"storage": storage_settings(server)})
    looking = object_storage(server, tmp_path / "looking")
    song = tmp_path / "Sunny.wav"
    make_song(song, seconds=1)
    options = StemSeparationOptions.model_validate({"model": "mini", "quality": "fast"})

    async with backend(settings, with_web=False) as house:

        async def submit() -> JobView:
            return await house.service.submit(Submission(Upload(song.name, stream(song)), options, owner="local"))

        async with asyncio.timeout(100):
            first = [view async for view in house.service.watch((await submit()).job.id)][-1]
        second = await submit()
        assert second.job.status is JobStatus.COMPLETED and second.job.id != first.job.id
        assert keys(looking, second.job.id) == keys(looking, first.job.id)
        await house.service.delete(first.job.id, by="local")
        assert keys(looking, first.job.id) == [] and "input" in keys(looking, second.job.id)
        async with house.service.open_file(second.job, "vocals") as path:
            assert second.job.result is not None
            assert path.stat().st_size == dict(second.job.result.stems)["vocals"].size
        third = await house.service.again(second.job.id, {"output_format": "wav"}, by="local")
        assert third.job.status is JobStatus.PENDING and keys(looking, third.job.id) == ["input"]


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


async def test_storage_outage_during_job_costs_one_attempt(
    server: S3Server, stand_in_pool: PoolMaker, tmp_path: Path
) -> None:
    storage = object_storage(server, tmp_path / "data", patience_s=1.0)
    worker = storage_settings(server, patience_s=1.0, request_timeout_s=1.0)
    async with stand_in_pool(storage=worker) as pool, open_backend(tmp_path / "data", pool, storage=storage) as house:
        job_id = await house.add("slow 2")
        await house.until(job_id, JobStatus.PROCESSING)
        async with asyncio.timeout(60):
            while (live := house.progress.get(job_id)) is None or live.progress == 0:
                await asyncio.sleep(0.01)
        server.pause()  # pending requests are served after it resumes, too late for the attempt
        try:
            async with asyncio.timeout(60):
                while (await house.job(job_id)).attempt == 1:
                    await asyncio.sleep(0.05)
        finally:
            server.resume()
        job = await house.finished(job_id)
        assert job.status is JobStatus.COMPLETED and job.attempt >= 2, job.error
        assert keys(storage, job_id) == [f"a{job.attempt}/vocals.wav"]


async def test_long_storage_outage_fails_job_and_keeps_input(
    server: S3Server, stand_in_pool: PoolMaker, tmp_path: Path
) -> None:
    storage = object_storage(server, tmp_path / "data", patience_s=0.5)
    worker = storage_settings(server, patience_s=0.3)
    async with stand_in_pool(storage=worker) as pool, open_backend(tmp_path / "data", pool, storage=storage) as house:
        job_id = await house.add("slow 1")
        async with asyncio.timeout(60):
            while (live := house.progress.get(job_id)) is None or live.progress == 0:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(server.stop, "proxy")
        try:
            job = await house.finished(job_id)
        finally:
            await asyncio.to_thread(server.start, "proxy")
        assert (job.status, job.error_code) == (JobStatus.FAILED, "storage_away")
        assert job.error == ("The file storage does not respond. Try again in a few minutes. It was tried 3 times.")
        assert keys(storage, job_id) == ["input"]


async def test_unavailable_storage_refuses_song_and_keeps_nothing(server: S3Server, tmp_path: Path) -> None:
    defaults = load(data_dir=tmp_path / "data")
    away = storage_settings(server, endpoint="http://127.0.0.1:9", request_timeout_s=1.0)
    settings = defaults.model_copy(update={"storage": away})
    song = tmp_path / "song.wav"
    make_song(song, seconds=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.backend._PATIENCE_S", 0.2)
        async with backend(settings, with_web=False) as house:
            with pytest.raises(StorageUnavailable):
                options = StemSeparationOptions(model="mini")
                await house.service.submit(Submission(Upload("song.wav", stream(song)), options, owner="local"))
            assert await house.service.list("local") == []
    assert [path for path in (tmp_path / "data" / "jobs").rglob("*") if path.is_file()] == []


async def test_link_to_stored_file_redirects_or_streams(server: S3Server, tmp_path: Path) -> None:
    storage = object_storage(server, tmp_path, patience_s=0.3)
    key, content = f"jobs/{new_job_id()}/a1/Für Elise.mp3", os.urandom(5_000_000)
    obstore.put(storage._bucket._store, key, content)
    async with open_web_server(tmp_path, storage=storage) as house:
        link = house.file_link(key)

        async def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
            async with house.client.request(method, url, headers=headers, allow_redirects=False) as response:
                return response.status, await response.read(), response.headers

        status, _, headers = await ask(link)
        assert status == 302 and headers["Cache-Control"] == "no-store" and headers["Location"].startswith(server.url)
        assert (await ask(link.replace("&s=", "&s=A")))[0] == 403
        status, body, headers = await ask(link, "HEAD")
        assert (status, body, headers["Content-Length"]) == (200, b"", "5000000")
        status, body, headers = await ask(f"{link}&download")
        assert (status, body) == (200, content) and headers["Content-Disposition"].startswith("attachment;")
        for asked, start, end in (("0-0", 0, 1), ("4194300-4194310", 4194300, 4194311), ("-7", 4999993, 5000000)):
            status, body, headers = await ask(f"{link}&via=here", Range=f"bytes={asked}")
            assert (status, body) == (206, content[start:end])
            assert headers["Content-Range"] == f"bytes {start}-{end - 1}/5000000"
        status, _, headers = await ask(f"{link}&via=here", Range="bytes=5000000-")
        assert (status, headers["Content-Range"]) == (416, "bytes */5000000")
        status, body, headers = await ask(f"{link}&via=cdn")
        assert (status, body) == (200, content) and headers["Cache-Control"].startswith("public")
        assert (await ask(f"{link}&via=cdn", **{"If-None-Match": headers["ETag"]}))[0] == 304
        status, body, headers = await ask(f"{link}&via=here", Range="bytes=0-9", **{"If-Range": '"another"'})
        assert (status, len(body)) == (200, 5_000_000)
        assert (await ask(house.file_link(f"jobs/{new_job_id()}/a1/x.mp3")))[0] == 404
        await asyncio.to_thread(server.stop, "proxy")
        try:
            status, body, _ = await ask(link)
            assert (status, json.loads(body)["error"]["code"]) == (503, "storage_away")
        finally:
            await asyncio.to_thread(server.start, "proxy")


async def test_file_links_use_cdn_if_configured(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, cdn_url="https://cdn.example.org/", open=True) as house:
        job_id = await house.job(done=True)
        async with house.client.get(f"/api/jobs/{job_id}") as response:
            result = (await response.json())["result"]
        urls = [result["stems"][name]["cdnUrl"] for name in ("vocals", "drums", "bass", "other")]
        assert result["cdnUrls"] == urls
        for url in urls:
            assert url.startswith(f"https://cdn.example.org/files/jobs/{job_id}/a1/")
            async with house.client.get(url.removeprefix("https://cdn.example.org")) as response:
                assert response.status == 200 and response.headers["Cache-Control"] == "public, max-age=3600"
        async with house.client.get(f"/jobs/{job_id}/player.json") as response:
            for address in (await response.json())["files"].values():
                assert address.startswith("/") and "via=cdn" not in address
