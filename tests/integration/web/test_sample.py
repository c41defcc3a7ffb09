"""The sample song of the start page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from config.settings import Settings, load
from engine.backend import backend
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

pytestmark = pytest.mark.timeout(900)

_HTML = {"Accept": "text/html"}


def settings(folder: Path, *, sample: bool = True, link_lifetime_days: int = 90) -> Settings:
    write_model(folder / "models")
    return load(
        data_dir=folder / "data",
        models_dir=folder / "models",
        web={"port": 0, "sample": sample, "link_lifetime_days": link_lifetime_days},
        workers={"devices": ["cpu"], "threads": 1, "compile": False},
    )


async def sample_page(client: aiohttp.ClientSession) -> str:
    async with asyncio.timeout(800):  # the song is made at the lowest priority
        while True:
            async with client.get("/sample", headers=_HTML, allow_redirects=False) as response:
                if response.status == 302:
                    return response.headers["Location"]
                assert response.status == 503 and response.headers["Refresh"] == "5"
                assert "The sample song is being prepared" in await response.text()
            await asyncio.sleep(0.2)


async def finished(client: aiohttp.ClientSession, page: str) -> dict[str, Any]:
    """Return the job once it is kept."""
    path, _, query = page.partition("?")
    async with asyncio.timeout(300):
        while True:
            async with client.get(f"{path}/player.json?{query}") as response:
                job: dict[str, Any] = await response.json()
            if job["status"] == "failed" or job["keep"]:
                return job
            await asyncio.sleep(0.2)


async def offer(client: aiohttp.ClientSession) -> bool:
    async with client.get("/choices.json") as response:
        return bool((await response.json())["sample"])


async def test_sample_is_separated_once_and_kept(tmp_path: Path) -> None:
    async with backend(settings(tmp_path)) as running, aiohttp.ClientSession(running.web_url) as client:
        assert await offer(client)
        page = await sample_page(client)
        job = await finished(client, page)
        assert job["status"] == "completed", job["error"]
        assert job["title"] == "Stemify sample song" and job["options"]["model"] == "mini"
        assert job["mayChange"] is False, "visitors cannot delete it"
        assert job["isSample"] is True and job["mayRepeat"] is False
        again = page.replace("/jobs/", "/api/jobs/").replace("?", "/again?")
        async with client.post(again, json={"quality": "fast"}) as response:
            assert response.status == 403 and "sample song" in (await response.json())["error"]["message"]
        async with client.get(job["files"]["vocals"]) as response:
            assert response.status == 200
    async with backend(settings(tmp_path)) as running, aiohttp.ClientSession(running.web_url) as client:
        assert (await sample_page(client)).partition("?")[0] == page.partition("?")[0]
    async with (
        backend(settings(tmp_path, sample=False)) as running,
        aiohttp.ClientSession(running.web_url) as client,
        client.get("/sample") as response,
    ):
        assert response.status == 404 and not await offer(client)


async def test_sample_that_fails_is_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def generate(path: Path) -> None:
        make_song(path, seconds=1)  # the whole one takes seconds of computing at the lowest priority

    monkeypatch.setattr("engine.service.sample._generate", generate)
    without_room = settings(tmp_path)
    limits = without_room.limits.model_copy(update={"free_disk_bytes": 1 << 60})
    full = without_room.model_copy(update={"limits": limits})
    async with backend(full) as running, aiohttp.ClientSession(running.web_url) as client:
        async with asyncio.timeout(300):
            while await offer(client):
                await asyncio.sleep(0.2)
        async with client.get("/sample", headers=_HTML) as response:
            assert response.status == 404 and "This server has no sample song." in await response.text()
