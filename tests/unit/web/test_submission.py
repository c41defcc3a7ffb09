"""Songs and links sent to the API over a socket: accepted and refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from yarl import URL

from engine.jobs.options import OutputFormat, Quality
from engine.service.service import Link, Upload
from tests.fixtures.web_backend import WebServer, form, open_web_server

LIMIT = 2**20
FILE = b'--b\r\nContent-Disposition: form-data; name="file"\r\n'
OPTIONS = {"model": "mini", "quality": "fast", "outputFormat": "flac", "removeVocals": True}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WebServer]:
    async with open_web_server(tmp_path, max_bytes=LIMIT, per_hour=99) as server:
        yield server


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
