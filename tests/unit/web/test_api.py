"""The API over a socket: limits, lists, jobs and errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine import errors
from engine.database.errors import StoreBusy
from engine.jobs.job import JobStatus
from engine.sources.errors import YoutubeCaptcha
from engine.web.errors import status_of
from tests.fixtures.web_backend import TOKEN, WebServer, form, open_web_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WebServer]:
    async with open_web_server(tmp_path, per_hour=99) as server:
        yield server


async def test_exceeded_quota_has_retry_after(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, per_hour=1) as server:
        await server.job()
        async with server.client.post("/api/stemify", data=form(("file", b"x"))) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "1235")
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["RateLimit-Policy"] == '"jobs";q=1;w=3600'
            assert response.headers["RateLimit"] == '"jobs";r=0;t=1235'
            assert (await response.json())["error"]["code"] == "quota_exceeded"


async def test_jobs_left_are_in_each_response(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, per_hour=3, api_tokens=[TOKEN]) as server:
        for left, path in ((2, "/api/stemify"), (2, "/api/limits"), (1, "/api/stemify")):
            method = "POST" if path == "/api/stemify" else "GET"
            data = form(("file", b"x")) if method == "POST" else None
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            async with server.client.request(method, path, data=data, headers=bearer) as response:
                assert response.headers["RateLimit"] == f'"jobs";r={left}'
        async with server.client.get("/api/limits") as response:
            assert response.status == 401 and "RateLimit" not in response.headers


async def test_list_has_own_jobs_in_pages(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, trusted_proxies=["127.0.0.1"]) as server:
        mine = [await server.job(title=f"Song {number}") for number in range(5)]
        async with server.client.post(
            "/api/stemify", data=form(("file", b"x")), headers={"X-Forwarded-For": "203.0.113.9"}
        ) as response:
            assert response.status == 202
        listed: list[str] = []
        address = "/api/jobs?limit=2"
        while address:
            async with server.client.get(address) as response:
                page = await response.json()
            listed += [job["jobId"] for job in page["jobs"]]
            assert len(page["jobs"]) <= 2 and page["jobs"][0]["title"].startswith("Song")
            address = page["next"]
        assert listed == mine[::-1]
        for query in ("limit=0", "limit=101", "limit=x", "offset=-1", "offset=1e9"):
            async with server.client.get(f"/api/jobs?{query}") as response:
                assert (response.status, (await response.json())["error"]["code"]) == (400, "bad_request")


async def test_list_needs_token_or_private_server(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, api_tokens=[TOKEN]) as server, server.client.get("/api/jobs") as response:
        assert response.status == 401
    async with open_web_server(tmp_path, open=True) as server, server.client.get("/api/jobs") as response:
        assert response.status == 403


async def test_job_status_matches_the_data_model(server: WebServer) -> None:
    job_id = await server.job()

    async def look() -> dict[str, Any]:
        async with server.client.get(f"/api/jobs/{job_id}") as response:
            assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")
            body: dict[str, Any] = await response.json()
            return body

    body = await look()
    assert body == {
        "jobId": job_id, "status": "pending", "progress": 0,
        "createdAt": "2026-11-23T12:00:00Z", "updatedAt": "2026-11-23T12:00:00Z",
    }  # fmt: skip
    await server.service.run(job_id, 42)
    server.clock.move(seconds=5)
    await server.service.complete(job_id, {"vocals": b"v", "instrumental": b"i"})
    body = await look()
    assert (body["status"], body["progress"], body["updatedAt"]) == ("completed", 100, "2026-11-23T12:00:05Z")
    stems = body["result"]["stems"]
    assert stems["drums"] is None
    assert stems["vocals"]["sampleRate"] == 44100
    keys = {"outputDir", "waveformPath", "peaksPath", "path"}
    assert not keys & {*body["result"], *stems["vocals"]}, "no client can use storage keys"
    assert body["result"]["cdnUrls"] == [stems["vocals"]["cdnUrl"], stems["instrumental"]["cdnUrl"]]
    async with server.client.get(stems["vocals"]["cdnUrl"].removeprefix(server.links.base_url)) as response:
        assert await response.read() == b"v"


async def test_delete_cancels_running_and_removes_finished_jobs(server: WebServer) -> None:
    job_id = await server.job()
    await server.service.run(job_id, 10)
    async with server.client.delete(f"/api/jobs/{job_id}") as response:
        body = await response.json()
        assert (response.status, body["status"], body["error"]) == (200, "failed", "Cancelled.")
    async with server.client.delete(f"/api/jobs/{job_id}") as response:
        assert (response.status, await response.read()) == (204, b"")
    for method in ("GET", "DELETE"):
        async with server.client.request(method, f"/api/jobs/{job_id}") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "not_found")


async def test_job_of_another_owner_cannot_be_deleted(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, trusted_proxies=["127.0.0.1"]) as server:
        job_id = await server.job()
        headers = {"X-Forwarded-For": "203.0.113.9"}
        async with server.client.delete(f"/api/jobs/{job_id}", headers=headers) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (403, "not_allowed")
        assert server.service.jobs[job_id].status is JobStatus.PENDING


@pytest.mark.parametrize(
    "path", ["/nothing", "/api", "/api/jobs/", "/api/jobs/5", "/api/jobs/%00", "/files/", "/api/jobs/x/stems.zip"]
)
async def test_unknown_path_is_404_as_json(server: WebServer, path: str) -> None:
    async with server.client.get(path) as response:
        assert (response.status, response.content_type) == (404, "application/json")
        assert (await response.json())["error"]["message"].endswith(".") or path == "/nothing"


async def test_wrong_method_is_405_as_json(server: WebServer) -> None:
    for method, path, allowed in [
        ("GET", "/api/stemify", "POST"),
        ("PUT", "/api/jobs/x", "DELETE, GET, HEAD"),
        ("PATCH", "/healthz", "GET, HEAD"),
    ]:
        async with server.client.request(method, path) as response:
            assert (response.status, response.headers["Allow"]) == (405, allowed)
            assert (await response.json())["error"]["code"] == "method_not_allowed"


async def test_unexpected_error_reveals_no_details(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    job_id = await server.job()
    server.service.raises = RuntimeError("secret inner workings")
    for path in (
        f"/api/jobs/{job_id}",
        f"/api/jobs/{job_id}/events",
        f"/api/jobs/{job_id}/stems.zip",
        "/metrics",
        "/readyz",
    ):
        async with server.client.get(path) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (500, "internal")
            assert "secret" not in await response.text()
    assert "secret inner workings" in caplog.text


async def test_log_has_no_signature_or_token(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        job_id = await server.job(done=True)
        link = (await server.service.get(job_id)).links[0].url.removeprefix(server.links.base_url)
        async with server.client.get(link, headers={"Authorization": "Bearer tell-nobody-this"}) as response:
            assert response.status == 200
        async with asyncio.timeout(60):
            while f"127.0.0.1 GET /files/jobs/{job_id}/a1/" not in caplog.text:
                await asyncio.sleep(0.01)
    assert link.rpartition("s=")[2] not in caplog.text
    assert "tell-nobody-this" not in caplog.text


def test_user_fixable_errors_are_not_server_faults() -> None:
    theirs = (errors.InputRefused, errors.RetryLater, errors.SourceFailed, errors.NotFound, errors.NotAllowed)
    for code, kind in errors.error_types().items():
        status = status_of(kind.__new__(kind))
        assert 400 <= status < (500 if issubclass(kind, theirs) else 600), code
    assert status_of(errors.UnknownModel()) == status_of(YoutubeCaptcha()) == 422
    assert status_of(StoreBusy()) == 503
    assert status_of(errors.InternalError()) == 500
