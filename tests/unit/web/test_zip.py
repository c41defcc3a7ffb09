"""The zip of all stems."""

from __future__ import annotations

import asyncio
import io
import os
import tracemalloc
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.fixtures.web_backend import WebServer, open_web_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WebServer]:
    async with open_web_server(tmp_path) as server:
        yield server


async def test_zip_contains_every_stem_unchanged(server: WebServer) -> None:
    stems = {"vocals": os.urandom(300_000), "drums": b"", "bass": b"boom" * 9, "other": os.urandom(1_200_000)}
    job_id = await server.job(title="Für Elise", done=True, **stems)
    async with server.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
        content = await response.read()
        assert (response.status, response.content_type) == (200, "application/zip")
        assert int(response.headers["Content-Length"]) == len(content)
        assert "filename*=UTF-8''F%C3%BCr%20Elise%20-%20stems.zip" in response.headers["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert {info.filename: archive.read(info) for info in archive.infolist()} == {
            f"Für Elise - {name} - mini.mp3": stem for name, stem in stems.items()
        }
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


async def test_head_of_zip_has_the_length(server: WebServer) -> None:
    job_id = await server.job(done=True)
    async with server.client.head(f"/api/jobs/{job_id}/stems.zip") as response:
        assert (response.status, await response.read()) == (200, b"")
        length = int(response.headers["Content-Length"])
    async with server.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
        assert len(await response.read()) == length


async def test_zip_link_needs_no_token(tmp_path: Path) -> None:
    async with open_web_server(tmp_path) as server:
        job_id = await server.job(done=True)
        link = server.links.zip(job_id, server.clock().replace(year=2027)).removeprefix(server.links.base_url)
        async with server.client.get(link) as response:
            assert response.status == 200


async def test_zip_exists_only_while_result_does(server: WebServer) -> None:
    job_id = await server.job()
    async with server.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (409, "not_possible_now")
    await server.service.complete(job_id)
    await server.storage.delete_job(job_id)
    async with server.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "not_found")


async def test_zip_of_long_song_uses_little_memory(server: WebServer) -> None:
    job_id = await server.job(done=True)
    job = server.service.jobs[job_id]
    assert job.result is not None
    for _, info in job.result.stems:
        os.truncate(server.storage.local_path(info.path), 32 * 2**20)
    tracemalloc.start()
    try:
        async with server.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
            size_bytes = 0
            async for block in response.content.iter_chunked(2**16):
                size_bytes += len(block)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size_bytes > 4 * 32 * 2**20
    assert peak_bytes < 24 * 2**20


async def test_shrinking_file_aborts_the_download(server: WebServer) -> None:
    job_id = await server.job(done=True, vocals=b"v" * 20_000_000, other=b"o" * 9)
    result = server.service.jobs[job_id].result
    assert result is not None and result.stems.other is not None
    with pytest.raises(aiohttp.ClientPayloadError):
        async with asyncio.timeout(60), server.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
            await response.content.readexactly(1000)
            server.storage.local_path(result.stems.other.path).unlink()
            await response.content.read()
