"""Signed result files, whole and in ranges."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from email.message import Message
from email.utils import formatdate
from io import BufferedReader
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web
from yarl import URL

from engine.jobs.entity import new_job_id
from engine.text import content_disposition
from tests.fixtures.web_backend import WebServer, open_web_server

CONTENT = bytes(range(256)) * 8


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WebServer]:
    async with open_web_server(tmp_path) as server:
        yield server


def put(server: WebServer, name: str = "Sunny - vocals - mini.mp3", content: bytes = CONTENT) -> str:
    key = f"jobs/{new_job_id()}/a1/{name}"
    path = server.storage.local_path(key)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return key


async def test_link_serves_file_with_type_and_name(server: WebServer) -> None:
    async with server.client.get(server.file_link(put(server))) as response:
        assert (response.status, await response.read()) == (200, CONTENT)
        assert response.content_type == "audio/mpeg"
        assert response.headers["Content-Disposition"].startswith('inline; filename="Sunny - vocals - mini.mp3"')
        assert response.headers["Accept-Ranges"] == "bytes"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert "sandbox" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.wav", "audio/wav"), ("a.flac", "audio/flac"), ("a.png", "image/png"), ("a.json", "application/json"),
     ("a.html", "application/octet-stream"), ("a", "application/octet-stream")],
)  # fmt: skip
async def test_unknown_file_types_are_octet_streams(server: WebServer, name: str, kind: str) -> None:
    async with server.client.get(server.file_link(put(server, name))) as response:
        assert (response.status, response.content_type) == (200, kind)


async def test_download_parameter_makes_an_attachment(server: WebServer) -> None:
    async with server.client.get(server.file_link(put(server)) + "&download") as response:
        assert response.status == 200
        assert response.headers["Content-Disposition"].startswith("attachment;")


@pytest.mark.parametrize("name", ["Für Elise – Ünï.mp3", 'quote".mp3', "semi;colon=%41.mp3", "日本語.mp3", "x" * 200])
async def test_unicode_file_name_is_sent_by_rfc_8187(server: WebServer, name: str) -> None:
    async with server.client.get(server.file_link(put(server, name))) as response:
        assert response.status == 200
        header = Message()
        header["Content-Disposition"] = response.headers["Content-Disposition"]
        assert header.get_filename("").encode("latin1", "replace").isascii()
        whole = quote(name, safe="!#$&+-.^_`|~")
        assert f"filename*=UTF-8''{whole}" in response.headers["Content-Disposition"]


def test_file_name_cannot_inject_headers() -> None:
    header = content_disposition("inline", 'a"; filename="evil.exe\r\nSet-Cookie: x=1.mp3')
    assert "\r" not in header and "\n" not in header
    assert header.count('"') == 2


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=2000-", 2000, 2048), ("bytes=-48", 2000, 2048),
     ("bytes=-9999", 0, 2048), ("bytes=2047-99999", 2047, 2048)],
)  # fmt: skip
async def test_range_returns_that_part(server: WebServer, asked: str, start: int, stop: int) -> None:
    async with server.client.get(server.file_link(put(server)), headers={"Range": asked}) as response:
        assert (response.status, await response.read()) == (206, CONTENT[start:stop])
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("asked", ["bytes=2048-", "bytes=99999-100000", "bytes=-0"])
async def test_range_beyond_end_is_416_with_file_size(server: WebServer, asked: str) -> None:
    async with server.client.get(server.file_link(put(server)), headers={"Range": asked}) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
        assert (await response.json())["error"]["code"] == "range_outside"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=0-1,5-6", "lines=0-1", "bytes=", "bytes=a-b", "bytes=٣-٤"])
async def test_invalid_range_is_ignored(server: WebServer, asked: str) -> None:
    async with server.client.get(server.file_link(put(server)), headers={"Range": asked}) as response:
        assert (response.status, await response.read()) == (200, CONTENT)


async def test_if_range_of_another_version_sends_whole_file(server: WebServer) -> None:
    key = put(server)
    link = server.file_link(key)
    async with server.client.get(link) as response:
        etag, modified = response.headers["ETag"], response.headers["Last-Modified"]
    for version, status in [
        (etag, 206), (modified, 206), ('"other"', 200), (f"W/{etag}", 200), (formatdate(0, usegmt=True), 200),
        (formatdate(4e9, usegmt=True), 200), ("nonsense", 200),
    ]:  # fmt: skip
        async with server.client.get(link, headers={"Range": "bytes=0-9", "If-Range": version}) as response:
            assert response.status == status, version
    async with server.client.get(link, headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")


async def test_head_has_the_headers_of_get(server: WebServer) -> None:
    link = server.file_link(put(server))
    async with server.client.head(link) as response:
        assert (response.status, response.headers["Content-Length"], await response.read()) == (200, "2048", b"")
    async with server.client.head(link, headers={"Range": "bytes=0-9"}) as response:
        assert (response.status, response.headers["Content-Length"]) == (206, "10")
    async with server.client.head(link.replace("s=", "s=x")) as response:
        assert response.status == 403


async def error_of(server: WebServer, path: str) -> tuple[int, str]:
    async with server.client.get(path) as response:
        body = await response.json()
        assert set(body) == {"error"} and set(body["error"]) == {"code", "message"}
        assert body["error"]["message"].endswith(".")
        return response.status, body["error"]["code"]


async def test_wrong_expired_and_deleted_links_differ(server: WebServer) -> None:
    key, other = put(server), put(server, "other.mp3")
    link = server.file_link(key)
    signature = link.rpartition("s=")[2]
    for changed in (
        link.replace("e=", "e=1"),
        link.replace("e=", "e=0"),
        link.replace(signature, signature[:-1]),
        link.replace(signature, ""),
        link.partition("?")[0],
        link.replace(quote(key), quote(other)),
        link.replace("e=", "e=-"),
        f"{link.partition('?')[0]}?e=99999999999999999999&s={signature}",
        f"/files/{quote(key)}?e=%FF&s=%00%FF",
    ):
        assert await error_of(server, changed) == (403, "link_invalid"), changed
    server.clock.move(days=91)
    assert await error_of(server, link) == (410, "link_expired")
    server.clock.move(days=-91)
    server.storage.local_path(key).unlink()
    assert await error_of(server, link) == (404, "not_found")


async def test_disconnect_while_opening_closes_the_file(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[BufferedReader] = []
    opening, go_on = threading.Event(), threading.Event()
    open_slowly = web.FileResponse._make_response

    def make_response(response: web.FileResponse, request: web.BaseRequest, encodings: str) -> object:
        result = open_slowly(response, request, encodings)
        assert result[1] is not None
        opened.append(result[1])
        opening.set()
        go_on.wait(10)
        return result

    monkeypatch.setattr(web.FileResponse, "_make_response", make_response)
    leaving = asyncio.ensure_future(server.client.get(server.file_link(put(server))))
    await asyncio.to_thread(opening.wait, 10)
    leaving.cancel()
    assert server.runner.server is not None
    try:
        async with asyncio.timeout(60):
            while server.runner.server.connections:
                await asyncio.sleep(0.01)
            go_on.set()
            while not opened[0].closed:
                await asyncio.sleep(0.01)
    finally:
        go_on.set()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_page_link_does_not_open_files(server: WebServer) -> None:
    key = put(server)
    page = server.links.page(key.split("/")[1], server.clock().replace(year=2030))
    assert (await error_of(server, f"/files/{quote(key)}?{page.partition('?')[2]}"))[0] == 403


@pytest.mark.parametrize(
    "key",
    ["jobs/{id}/input", "jobs/{id}/input.mp3", "keys/links.key", "stemify.sqlite3", "jobs/{id}/a1/../input",
     "jobs/{id}/a1/..",
     "jobs/{id}/a1/sub/file.mp3", "jobs/{id}/a0/file.mp3", "../etc/passwd", "/etc/passwd", "scratch/{id}-a1/raw",
     "jobs/{id}/a1/link.mp3", "jobs/{id}/a1"],
)  # fmt: skip
async def test_valid_signature_reaches_only_result_files(server: WebServer, key: str) -> None:
    job_id = put(server, "real.mp3").split("/")[1]
    key = key.format(id=job_id)
    for path in ("keys/links.key", "stemify.sqlite3", f"jobs/{job_id}/input", f"jobs/{job_id}/a1/sub/file.mp3"):
        target = server.storage.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("secret")
    (server.storage.root / "jobs" / job_id / "a1" / "link.mp3").symlink_to(server.storage.root / "keys" / "links.key")
    link = server.file_link(key)
    for spelling in (link, link.replace("/..", "/%2E%2E"), link.replace("%2F", "/")):
        async with server.client.get(URL(server.url + spelling, encoded=True)) as response:
            assert response.status in (403, 404), spelling
            assert b"secret" not in await response.read()
