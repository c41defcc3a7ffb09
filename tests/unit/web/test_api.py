"""The API over a socket: accepted and refused requests."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from yarl import URL

from engine import errors
from engine.database.errors import StoreBusy
from engine.jobs.job import JobStatus
from engine.jobs.options import OutputFormat, Quality
from engine.service.service import Link, Upload
from engine.sources.errors import YoutubeCaptcha
from engine.web.errors import status_of
from tests.fixtures.web_backend import TOKEN, WebServer, open_web_server

LIMIT = 2**20
FILE = b'--b\r\nContent-Disposition: form-data; name="file"\r\n'
OPTIONS = {"model": "mini", "quality": "fast", "outputFormat": "flac", "removeVocals": True}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WebServer]:
    async with open_web_server(tmp_path, max_bytes=LIMIT, per_hour=99) as server:
        yield server


def form(*fields: tuple[str, bytes | str]) -> FormData:
    made = FormData()
    for name, value in fields:
        content = io.BytesIO(value.encode() if isinstance(value, str) else value)
        if name == "file":
            made.add_field("file", content, filename="Sunny.mp3", content_type="audio/mpeg")
        else:
            made.add_field(name, content, filename="options.json", content_type="application/json")
    return made


async def post(server: WebServer, **request: Any) -> tuple[int, dict[str, Any]]:
    async with server.client.post("/api/stemify", **request) as response:
        assert response.content_type == "application/json"
        return response.status, await response.json()


async def refusal(server: WebServer, **request: Any) -> tuple[int, str]:
    status, body = await post(server, **request)
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message"}
    assert "Traceback" not in body["error"]["message"]
    assert not server.service.jobs, "nothing was accepted"
    assert not list(server.storage.root.rglob("*.*")), "nothing is left"
    return status, body["error"]["code"]


async def test_file_is_accepted_with_position_and_estimate(server: WebServer) -> None:
    await server.job()
    song = bytes(range(256)) * 1000
    async with server.client.post(
        "/api/stemify", data=form(("file", song), ("options", json.dumps(OPTIONS)))
    ) as response:
        body = await response.json()
        assert response.status == 202
        assert set(body) == {"jobId", "status", "estimatedDuration", "message"}
        assert (body["status"], body["estimatedDuration"]) == ("pending", 40)
        assert "number 2 in the queue" in body["message"] and "80 seconds" in body["message"]
        assert response.headers["Location"] == f"/api/jobs/{body['jobId']}"
        assert URL(response.links["alternate"]["url"]).path == f"/jobs/{body['jobId']}"
    submission = server.service.submissions[-1]
    assert isinstance(submission.source, Upload)
    assert (submission.source.filename, submission.owner) == ("Sunny.mp3", "ip:127.0.0.1")
    assert submission.options.output_format is OutputFormat.FLAC
    assert submission.options.remove_vocals
    assert server.storage.local_path(f"jobs/{body['jobId']}/input").read_bytes() == song


@pytest.mark.parametrize("order", [("options", "file"), ("file", "options"), ("file",)])
async def test_options_may_precede_or_follow_the_file(server: WebServer, order: tuple[str, ...]) -> None:
    values: dict[str, bytes | str] = {"file": b"a song\r\n--of bytes\r\n" * 30_000, "options": json.dumps(OPTIONS)}
    status, body = await post(server, data=form(*((name, values[name]) for name in order)))
    assert status == 202
    assert server.service.submissions[-1].options.model == ("mini" if "options" in order else "htdemucs")
    assert server.storage.local_path(f"jobs/{body['jobId']}/input").read_bytes() == values["file"]


async def test_link_is_accepted_as_json(server: WebServer) -> None:
    address = "https://youtu.be/dQw4w9WgXcQ?list=x"
    status, _ = await post(server, json={"youtubeUrl": address, "options": {"quality": "best"}})
    assert status == 202
    submission = server.service.submissions[-1]
    assert submission.source == Link(address)
    assert (submission.options.quality, submission.options.model) == (Quality.BEST, "htdemucs_ft")


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [('{"model": "spleeter"}', 422, "unknown_model"), ('{"model": ["mini"]}', 422, "bad_options"),
     ('{"quality": "superb"}', 422, "bad_options"), ('{"quality": {}}', 422, "bad_options"),
     ('{"segmentDuration": -1}', 422, "bad_options"), ('{"segmentDuration": 1e999}', 422, "bad_options"),
     ('{"nonsense": 1}', 422, "bad_options"), ('{"self": 1}', 422, "bad_options"), ('{"cls": 1}', 422, "bad_options"),
     ("[]", 400, "bad_request"), ("{", 400, "bad_request"), ("[" * 60_000, 400, "bad_request"),
     ("", 400, "bad_request"), ("\ud800".encode("utf-8", "surrogatepass"), 400, "bad_request"),
     ("9" * 5000, 400, "bad_request"), ('{"a": "' + "x" * 70_000 + '"}', 413, "too_large")],
)  # fmt: skip
async def test_invalid_options_are_refused_in_either_order(
    server: WebServer, options: str | bytes, status: int, code: str
) -> None:
    for fields in ([("options", options), ("file", b"x" * 9999)], [("file", b"x" * 9999), ("options", options)]):
        assert await refusal(server, data=form(*fields)) == (status, code)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b"{}", 400, "bad_request"), (b"null", 400, "bad_request"), (b"\xff", 400, "bad_request"),
     (b'{"youtubeUrl": 5}', 400, "bad_request"), (b'{"youtubeUrl": "x", "options": 5}', 400, "bad_request"),
     (b'{"youtubeUrl": "x", "more": 5}', 400, "bad_request"),
     (b'{"youtubeUrl": "' + b"x" * 70_000 + b'"}', 413, "too_large")],
)  # fmt: skip
async def test_invalid_json_request_is_refused(server: WebServer, body: bytes, status: int, code: str) -> None:
    assert await refusal(server, data=body, headers={"Content-Type": "application/json"}) == (status, code)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [("text/plain", b"x", 415), ("application/x-www-form-urlencoded", b"youtubeUrl=x", 415),
     ("multipart/form-data", b"x", 400), ("multipart/form-data; boundary=b", b"", 400),
     ("multipart/form-data; boundary=b", b"--b--\r\n", 400), ("multipart/form-data; boundary=b", b"--b\r\n\r\nx", 400),
     ("multipart/form-data; boundary=" + "b" * 99, b"--b\r\n\r\nx", 400),
     ("multipart/form-data; boundary=b", FILE + b"\r\nno end", 400),
     ("multipart/form-data; boundary=b", FILE + b"Content-Length: 9\r\n\r\nabc", 400),
     ("multipart/form-data; boundary=b", b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx", 400),
     ("multipart/mixed; boundary=b", b"--b--", 415)],
)  # fmt: skip
async def test_damaged_body_is_refused(server: WebServer, kind: str, body: bytes, status: int) -> None:
    assert (await refusal(server, data=body, headers={"Content-Type": kind}))[0] == status


async def test_unexpected_fields_are_refused(server: WebServer) -> None:
    for fields in (
        [("song", b"x")],
        [("file", b"x"), ("file", b"y")],
        [("options", "{}"), ("options", "{}")],
        [("options", "{}")],
    ):
        assert await refusal(server, data=form(*fields)) == (400, "bad_request")


async def test_too_large_file_is_refused_in_either_order(server: WebServer) -> None:
    for size in (LIMIT + 1, 3 * LIMIT):
        fields: list[tuple[str, bytes | str]] = [("file", b"x" * size), ("options", "{}")]
        assert await refusal(server, data=form(*fields)) == (413, "too_large")
        assert await refusal(server, data=form(*reversed(fields))) == (413, "too_large")
    assert (await post(server, data=form(("file", b"x" * LIMIT))))[0] == 202


async def raw(server: WebServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.runner.addresses[0]
    return await asyncio.open_connection(host, port)


HEAD = b"POST /api/stemify HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'


@pytest.mark.parametrize(
    ("start", "status", "code"), [(PART, b"413", b"too_large"), (b"x\r\n", b"400", b"bad_request")]
)
async def test_endless_upload_is_cut_off(server: WebServer, start: bytes, status: bytes, code: bytes) -> None:
    reader, writer = await raw(server)
    block = b"x" * 65536 + b"\r\n"
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    sent_bytes = 0

    async def push() -> None:
        nonlocal sent_bytes
        piece = start
        while True:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            sent_bytes, piece = sent_bytes + len(piece), block
            if sent_bytes > 2 * LIMIT:
                await asyncio.sleep(0.01)  # a slow client that never finishes

    pushing = asyncio.create_task(push())
    try:
        async with asyncio.timeout(60):
            assert (await reader.readline()).split()[1] == status  # the phrase depends on Python's version
            rest = b""
            with contextlib.suppress(ConnectionResetError):  # closed with our bytes unread
                while block_read := await reader.read(1):
                    rest += block_read
        assert b"Connection: close" in rest and b'"%s"' % code in rest
    finally:
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
        writer.close()
    assert sent_bytes < 40 * LIMIT
    assert not list(server.storage.root.rglob("*.*"))


async def test_refusal_precedes_100_continue(server: WebServer) -> None:
    for head, status in [
        (HEAD + b"Content-Length: 99999999\r\n", 413),
        (HEAD.replace(b"multipart/form-data", b"text/plain") + b"Content-Length: 9\r\n", 415),
        (HEAD + b"Origin: https://evil.example\r\nContent-Length: 9\r\n", 403),
    ]:
        reader, writer = await raw(server)
        writer.write(head + b"Expect: 100-continue\r\n\r\n")
        assert (await reader.readline()).split()[1] == str(status).encode()
        writer.close()
    reader, writer = await raw(server)
    body = PART + b"song\r\n--b--\r\n"
    writer.write(HEAD + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body))
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    await reader.readline()
    writer.write(body)
    assert await reader.readline() == b"HTTP/1.1 202 Accepted\r\n"
    writer.close()


@pytest.mark.parametrize(("name", "piece"), [("_IDLE_S", b""), ("_WHOLE_S", b"x"), ("_RATE_WINDOW_S", b"x")])
async def test_stalled_upload_is_cancelled(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, name: str, piece: bytes
) -> None:
    monkeypatch.setattr(f"engine.web.body.{name}", 0.2)
    reader, writer = await raw(server)
    writer.write(HEAD + b"Content-Length: 500000\r\n\r\n" + PART)

    async def trickle() -> None:
        while True:
            writer.write(piece)
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(60):
        assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
    trickling.cancel()
    writer.close()
    assert not list(server.storage.root.rglob("*.*"))


async def test_aborted_upload_leaves_no_files(server: WebServer) -> None:
    for order in (PART, b'--b\r\nContent-Disposition: form-data; name="options"\r\n\r\n{}\r\n' + PART):
        _, writer = await raw(server)
        writer.write(HEAD + b"Content-Length: 500000\r\n\r\n" + order + b"x" * 200_000)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()
    async with asyncio.timeout(60):
        while list(server.storage.root.rglob("*.*")):
            await asyncio.sleep(0.02)
    assert not server.service.jobs


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\songs\\a.mp3", "a.mp3"),
        ("Für Elise.mp3", "Für Elise.mp3"),
        ("dir/", "audio"),
    ],
)
async def test_folders_in_file_name_are_dropped(server: WebServer, name: str, shown: str) -> None:
    made = FormData(quote_fields=False)
    made.add_field("file", b"x", filename=name)
    assert (await post(server, data=made))[0] == 202
    source = server.service.submissions[-1].source
    assert isinstance(source, Upload) and source.filename == shown


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
