"""All stems in one file: whole, named, stored, its length known, never in memory."""

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

from tests.fixtures.web_backend import WebHouse, open_web_house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[WebHouse]:
    async with open_web_house(tmp_path) as house:
        yield house


async def test_every_stem_is_in_it_as_it_is(house: WebHouse) -> None:
    stems = {"vocals": os.urandom(300_000), "drums": b"", "bass": b"boom" * 9, "other": os.urandom(1_200_000)}
    job_id = await house.job(title="Für Elise", done=True, **stems)
    async with house.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
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


async def test_head_knows_the_length(house: WebHouse) -> None:
    job_id = await house.job(done=True)
    async with house.client.head(f"/api/jobs/{job_id}/stems.zip") as response:
        assert (response.status, await response.read()) == (200, b"")
        length = int(response.headers["Content-Length"])
    async with house.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
        assert len(await response.read()) == length


async def test_a_zip_link_opens_it(tmp_path: Path) -> None:
    async with open_web_house(tmp_path) as house:
        job_id = await house.job(done=True)
        link = house.links.zip(job_id, house.clock().replace(year=2027)).removeprefix(house.links.base_url)
        async with house.client.get(link) as response:
            assert response.status == 200


async def test_zip_exists_only_while_result_does(house: WebHouse) -> None:
    job_id = await house.job()
    async with house.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (409, "not_possible_now")
    await house.service.complete(job_id)
    await house.storage.delete_job(job_id)
    async with house.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "not_found")


async def test_a_long_song_does_not_fill_the_memory(house: WebHouse) -> None:
    job_id = await house.job(done=True)
    job = house.service.jobs[job_id]
    assert job.result is not None
    for _, info in job.result.stems:
        os.truncate(house.storage.local_path(info.path), 32 * 2**20)
    tracemalloc.start()
    try:
        async with house.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
            size_bytes = 0
            async for block in response.content.iter_chunked(2**16):
                size_bytes += len(block)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size_bytes > 4 * 32 * 2**20
    assert peak_bytes < 24 * 2**20


async def test_a_file_that_shrinks_on_the_way_breaks_the_download_off(house: WebHouse) -> None:
    job_id = await house.job(done=True, vocals=b"v" * 20_000_000, other=b"o" * 9)
    result = house.service.jobs[job_id].result
    assert result is not None and result.stems.other is not None
    with pytest.raises(aiohttp.ClientPayloadError):
        async with asyncio.timeout(20), house.client.get(f"/api/jobs/{job_id}/stems.zip") as response:
            await response.content.readexactly(1000)
            house.storage.local_path(result.stems.other.path).unlink()
            await response.content.read()
