"""Pages and their JSON against a real backend, without a browser (see tests/browser)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from yarl import URL

from config.settings import load
from engine.backend import backend
from engine.jobs.entity import new_job_id
from tests.fixtures.planted_results import RATE, plant
from tests.fixtures.tiny_models import write_model

TOKEN = "a-token-of-the-tests"
NO_WORKERS = {"devices": ["cpu"], "threads": 1, "compile": False}


@pytest.fixture
async def planted(tmp_path: Path) -> tuple[Path, str]:
    """Create a data folder with one finished job."""
    sound = np.random.default_rng(1).normal(0, 0.1, (2, RATE)).astype(np.float32)
    write_model(tmp_path / "models")
    data = tmp_path / "data"
    data.mkdir()
    return data, await plant(data, {"vocals": sound, "drums": sound}, title="A <b>bold</b> song")


@pytest.fixture
async def open_site(planted: tuple[Path, str]) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Run a backend without tokens."""
    async with _site(planted[0]) as client:
        yield client, planted[1]


def _site(data: Path, **web: object) -> _Site:
    return _Site(data, {"port": 0, **web})


class _Site:
    def __init__(self, data: Path, web: dict[str, object]) -> None:
        self._settings = load(data_dir=data, models_dir=data.parent / "models", web=web, workers=NO_WORKERS)

    async def __aenter__(self) -> aiohttp.ClientSession:
        self._backend = backend(self._settings)
        running = await self._backend.__aenter__()
        self._client = aiohttp.ClientSession(running.web_url)
        return self._client

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()
        await self._backend.__aexit__(None, None, None)


async def test_pages_have_strict_content_security_policy(
    open_site: tuple[aiohttp.ClientSession, str],
) -> None:
    client, job_id = open_site
    for path in ("/", f"/jobs/{job_id}"):
        async with client.get(path) as response:
            assert response.status == 200
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "script-src 'self'" in policy
            assert "unsafe" not in policy
            text = await response.text()
        assert "<script>" not in text and "style=" not in text and "onclick" not in text
        assert "https://" not in text.replace('placeholder="https://youtu.be/…"', "")


async def test_only_files_of_static_folder_are_served(
    open_site: tuple[aiohttp.ClientSession, str],
) -> None:
    client, _ = open_site
    async with client.get("/static/sound/player.js") as response:
        assert response.status == 200
        assert response.content_type == "text/javascript"
        assert "connect-src 'self'" in response.headers["Content-Security-Policy"]
        etag = response.headers["ETag"]
    async with client.get("/static/sound/player.js", headers={"If-None-Match": etag}) as response:
        assert response.status == 304
    for name in (
        "nothing.js",
        "sound",
        "sound/nothing.js",
        "index.html",
        "..%2fpages.py",
        "%2e%2e/pages.py",
        "%2fetc%2fpasswd",
    ):
        async with client.get(URL(f"/static/{name}", encoded=True)) as response:
            assert response.status == 404, name


async def test_page_has_one_style_and_its_modules_in_order(open_site: tuple[aiohttp.ClientSession, str]) -> None:
    client, job_id = open_site
    async with client.get(f"/jobs/{job_id}") as response:
        text = await response.text()
        assert [f"/jobs/{job_id}/player.json" in link for link in response.headers.getall("Link")] == [True]
    async with client.get(
        URL(f"/jobs/{job_id}?e=1&s=a>b&x=>;rel=x,<https://evil.example>;rel=preconnect", encoded=True)
    ) as response:
        links = response.headers.getall("Link", [])
        assert "evil" not in str(links) and "a>b" not in str(links)
    (style,) = re.findall(r'<link rel="stylesheet" href="([^"]+)">', text)
    async with client.get(style) as response:
        assert (response.status, response.content_type) == (200, "text/css")
        css = await response.text()
    for name in ("style.css", "mixer.css", "practice/practice.css"):
        async with client.get(f"/static/{name}") as response:
            assert await response.text() in css, name
    modules = re.findall(r'<link rel="modulepreload" href="([^"]+)"( fetchpriority="low")?>', text)
    names = [name.removeprefix("/static/") for name, _ in modules]
    assert len(names) == len(set(names))
    assert {"job.js", "mixer.js", "sound/run.js", "practice/part.js", "again.js"} <= set(names)
    waits = dict(zip(names, [bool(low) for _, low in modules], strict=True))
    assert not waits["dom.js"] and not waits["sound/run.js"] and waits["practice/part.js"]


async def test_pages_and_scripts_are_compressed_once(open_site: tuple[aiohttp.ClientSession, str]) -> None:
    client, job_id = open_site
    tags: dict[str, str] = {}
    for path in ("/", f"/jobs/{job_id}", "/static/job.js", "/static/style.css", "/api/openapi.json"):
        for encoding in ("gzip", "identity"):
            async with client.get(path, headers={"Accept-Encoding": encoding}) as response:
                assert (response.headers.get("Content-Encoding", "identity"), response.status) == (encoding, 200), path
                assert response.headers["Vary"] == "Accept-Encoding"
                tags[encoding] = response.headers["ETag"]
        assert tags["gzip"] != tags["identity"]
        async with client.get(path, headers={"If-None-Match": tags["gzip"], "Accept-Encoding": "gzip"}) as response:
            assert (response.status, await response.read()) == (304, b"")
    async with client.get(f"/jobs/{job_id}/player.json", headers={"Accept-Encoding": "gzip"}) as response:
        assert "Content-Encoding" not in response.headers, "it mixes secrets with the song's title"


async def test_first_visit_weighs_little(open_site: tuple[aiohttp.ClientSession, str]) -> None:
    client, job_id = open_site
    for page in ("/", f"/jobs/{job_id}"):
        async with client.get(page) as response:
            paths = {page, *re.findall(r'(?:src|href)="(/static/[^"]+)"', await response.text())}
        size_bytes = 0
        for path in paths:
            async with client.get(path, headers={"Accept-Encoding": "gzip"}) as response:
                assert response.status == 200, path
                size_bytes += int(response.headers["Content-Length"])
        assert size_bytes <= 120_000, (page, size_bytes)


async def test_page_of_missing_job_says_so_with_404(
    open_site: tuple[aiohttp.ClientSession, str],
) -> None:
    client, _ = open_site
    for path in (f"/jobs/{new_job_id()}", "/jobs/nonsense"):
        async with client.get(path) as response:
            assert response.status == 404
            assert response.content_type == "text/html"
            assert response.headers["Cache-Control"] == "no-store"


async def test_unknown_path_is_html_for_browsers_json_for_programs(
    open_site: tuple[aiohttp.ClientSession, str],
) -> None:
    client, _ = open_site
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path in ("/nothing", "/static/nothing.css", "/jobs/1/2/3"):
        async with client.get(path, headers=browser) as response:
            assert (response.status, response.content_type) == (404, "text/html")
            assert 'href="/"' in await response.text()
    for method, path, headers in (
        ("GET", "/nothing", {}),
        ("POST", "/nothing", browser),
        ("GET", "/api/nothing", browser),
        ("GET", f"/jobs/{new_job_id()}/player.json", browser),
    ):
        async with client.request(method, path, headers=headers) as response:
            assert (response.status, response.content_type) == (404, "application/json")


async def test_dead_link_is_html_for_browsers_json_for_programs(
    open_site: tuple[aiohttp.ClientSession, str],
) -> None:
    client, _ = open_site
    for path, status in (("/files/jobs/x/a1/x.mp3", 403), (f"/api/jobs/{new_job_id()}/stems.zip", 404)):
        async with client.get(path, headers={"Accept": "text/html,*/*;q=0.8"}) as response:
            assert (response.status, response.content_type) == (status, "text/html"), path
            assert "style-src 'self'" in response.headers["Content-Security-Policy"]
            assert "{" not in await response.text()
        async with client.get(path) as response:
            assert (response.status, response.content_type) == (status, "application/json"), path
            assert (await response.json())["error"]["message"]


async def test_player_json_has_all_page_data(open_site: tuple[aiohttp.ClientSession, str]) -> None:
    client, job_id = open_site
    async with client.get(f"/jobs/{job_id}/player.json") as response:
        job = await response.json()
    assert job["title"] == "A <b>bold</b> song"
    assert job["mayChange"] is True
    assert set(job["files"]) == {"vocals", "drums", "zip", "beats"}
    assert all(address.startswith("/") for address in job["files"].values())
    async with client.get(job["files"]["drums"], headers={"Range": "bytes=0-9"}) as response:
        assert response.status == 206
    async with client.get(f"/jobs/{job_id}/peaks.json") as response:
        assert set((await response.json())["stems"]) == {"vocals", "drums"}
    async with client.post(f"/jobs/{job_id}/keep") as response:
        assert (await response.json())["keep"] is True
    async with client.post(f"/jobs/{job_id}/retry") as response:
        assert response.status == 409


async def test_result_has_music_with_a_link_to_the_beats(open_site: tuple[aiohttp.ClientSession, str]) -> None:
    client, job_id = open_site
    async with client.get(f"/api/jobs/{job_id}") as response:
        music = (await response.json())["result"]["music"]
    assert (music["tempoBpm"], music["key"], music["camelot"]) == (120.0, "A minor", "8A")
    assert music["chords"] is None, "unknown chords have no link"
    assert not [name for name in music if name.endswith("Path")]
    link = URL(music["beats"])
    async with client.get(link.relative()) as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert (await response.json())["beats"] == [0.5, 1.0]
    async with client.get(link.relative().update_query(s="forged")) as response:
        assert response.status == 403


async def test_other_web_sites_cannot_keep_or_retry(open_site: tuple[aiohttp.ClientSession, str]) -> None:
    client, job_id = open_site
    async with client.post(f"/jobs/{job_id}/keep", headers={"Origin": "https://evil.example"}) as response:
        assert response.status == 403


async def test_choices_list_models_and_limits(open_site: tuple[aiohttp.ClientSession, str]) -> None:
    client, _ = open_site
    async with client.get("/choices.json") as response:
        choices = await response.json()
    models = {model["name"]: model for model in choices["models"]}
    assert models["htdemucs"]["usable"] is True
    assert models["melband_vocals"]["traits"][:2] == ["vocals, instrumental", "6.8x the time"]
    assert "KimberleyJSN" in models["melband_vocals"]["licenceSource"]
    assert models["melband_vocals"]["downloadBytes"] == 912_885_624 and not models["melband_vocals"]["isDownloaded"]
    assert choices["defaults"] == {"fast": "htdemucs", "balanced": "htdemucs", "best": "htdemucs_ft"}
    assert choices["wantsToken"] is False
    assert choices["maxDurationS"] == 600
    async with client.get("/choices.json?seconds=600") as response:
        of_ten_minutes = (await response.json())["models"][0]["expectedS"]
    assert list(of_ten_minutes) == ["fast", "balanced", "best"]
    assert all(of_ten_minutes[quality] > 2 * s for quality, s in choices["models"][0]["expectedS"].items())


async def test_page_link_is_read_only_with_tokens(planted: tuple[Path, str]) -> None:
    data, job_id = planted
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with _site(data, api_tokens=[TOKEN]) as client:
        async with client.get(f"/jobs/{job_id}") as response:
            assert response.status == 401
        async with client.get(f"/jobs/{job_id}/player.json") as response:
            assert response.status == 401
            assert (await response.json())["error"]["code"] == "no_token"
        async with client.get(f"/jobs/{job_id}/player.json", headers=bearer) as response:
            job = await response.json()
            assert job["mayChange"] is True
        link = f"/jobs/{job_id}/player.json?{job['pageQuery']}"
        async with client.get(link) as response:
            assert response.status == 200
            assert (await response.json())["mayChange"] is False
        async with client.get(f"/jobs/{job_id}?{job['pageQuery']}") as response:
            assert response.status == 200
        async with client.post(f"/jobs/{job_id}/keep?{job['pageQuery']}") as response:
            assert response.status == 401
        async with client.post(f"/jobs/{job_id}/keep", headers=bearer) as response:
            assert response.status == 200
    await asyncio.sleep(0)
