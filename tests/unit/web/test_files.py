"""Signed files: who has the link gets the file, whole or in part; nobody gets anything else."""

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
from tests.fixtures.web_backend import WebHouse, open_web_house

CONTENT = bytes(range(256)) * 8


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[WebHouse]:
    async with open_web_house(tmp_path) as house:
        yield house


def put(house: WebHouse, name: str = "Sunny - vocals - mini.mp3", content: bytes = CONTENT) -> str:
    key = f"jobs/{new_job_id()}/a1/{name}"
    path = house.storage.local_path(key)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return key


async def test_a_link_gives_the_file_with_its_type_and_name(house: WebHouse) -> None:
    async with house.client.get(house.file_link(put(house))) as response:
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
async def test_only_kinds_of_our_own_are_shown_as_what_they_are(house: WebHouse, name: str, kind: str) -> None:
    async with house.client.get(house.file_link(put(house, name))) as response:
        assert (response.status, response.content_type) == (200, kind)


async def test_with_download_it_is_to_be_saved(house: WebHouse) -> None:
    async with house.client.get(house.file_link(put(house)) + "&download") as response:
        assert response.status == 200
        assert response.headers["Content-Disposition"].startswith("attachment;")


@pytest.mark.parametrize("name", ["Für Elise – Ünï.mp3", 'quote".mp3', "semi;colon=%41.mp3", "日本語.mp3", "x" * 200])
async def test_any_name_arrives_whole_at_those_who_read_rfc_8187(house: WebHouse, name: str) -> None:
    async with house.client.get(house.file_link(put(house, name))) as response:
        assert response.status == 200
        header = Message()
        header["Content-Disposition"] = response.headers["Content-Disposition"]
        assert header.get_filename("").encode("latin1", "replace").isascii()
        whole = quote(name, safe="!#$&+-.^_`|~")
        assert f"filename*=UTF-8''{whole}" in response.headers["Content-Disposition"]


def test_a_name_cannot_break_out_of_its_header() -> None:
    header = content_disposition("inline", 'a"; filename="evil.exe\r\nSet-Cookie: x=1.mp3')
    assert "\r" not in header and "\n" not in header
    assert header.count('"') == 2


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=2000-", 2000, 2048), ("bytes=-48", 2000, 2048),
     ("bytes=-9999", 0, 2048), ("bytes=2047-99999", 2047, 2048)],
)  # fmt: skip
async def test_a_range_gives_just_that_part(house: WebHouse, asked: str, start: int, stop: int) -> None:
    async with house.client.get(house.file_link(put(house)), headers={"Range": asked}) as response:
        assert (response.status, await response.read()) == (206, CONTENT[start:stop])
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("asked", ["bytes=2048-", "bytes=99999-100000", "bytes=-0"])
async def test_range_beyond_end_is_416_with_file_size(house: WebHouse, asked: str) -> None:
    async with house.client.get(house.file_link(put(house)), headers={"Range": asked}) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
        assert (await response.json())["error"]["code"] == "range_outside"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=0-1,5-6", "lines=0-1", "bytes=", "bytes=a-b", "bytes=٣-٤"])
async def test_a_range_that_is_none_is_ignored(house: WebHouse, asked: str) -> None:
    async with house.client.get(house.file_link(put(house)), headers={"Range": asked}) as response:
        assert (response.status, await response.read()) == (200, CONTENT)


async def test_if_range_gives_the_part_of_the_same_version_only(house: WebHouse) -> None:
    key = put(house)
    link = house.file_link(key)
    async with house.client.get(link) as response:
        etag, modified = response.headers["ETag"], response.headers["Last-Modified"]
    for version, status in [
        (etag, 206), (modified, 206), ('"other"', 200), (f"W/{etag}", 200), (formatdate(0, usegmt=True), 200),
        (formatdate(4e9, usegmt=True), 200), ("nonsense", 200),
    ]:  # fmt: skip
        async with house.client.get(link, headers={"Range": "bytes=0-9", "If-Range": version}) as response:
            assert response.status == status, version
    async with house.client.get(link, headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")


async def test_head_says_what_get_would_send(house: WebHouse) -> None:
    link = house.file_link(put(house))
    async with house.client.head(link) as response:
        assert (response.status, response.headers["Content-Length"], await response.read()) == (200, "2048", b"")
    async with house.client.head(link, headers={"Range": "bytes=0-9"}) as response:
        assert (response.status, response.headers["Content-Length"]) == (206, "10")
    async with house.client.head(link.replace("s=", "s=x")) as response:
        assert response.status == 403


async def error_of(house: WebHouse, path: str) -> tuple[int, str]:
    async with house.client.get(path) as response:
        body = await response.json()
        assert set(body) == {"error"} and set(body["error"]) == {"code", "message"}
        assert body["error"]["message"].endswith(".")
        return response.status, body["error"]["code"]


async def test_wrong_expired_and_gone_are_told_apart(house: WebHouse) -> None:
    key, other = put(house), put(house, "other.mp3")
    link = house.file_link(key)
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
        assert await error_of(house, changed) == (403, "link_invalid"), changed
    house.clock.move(days=91)
    assert await error_of(house, link) == (410, "link_expired")
    house.clock.move(days=-91)
    house.storage.local_path(key).unlink()
    assert await error_of(house, link) == (404, "not_found")


async def test_whoever_leaves_while_a_file_is_opened_leaves_none_open(
    house: WebHouse, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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
    leaving = asyncio.ensure_future(house.client.get(house.file_link(put(house))))
    await asyncio.to_thread(opening.wait, 10)
    leaving.cancel()
    assert house.runner.server is not None
    try:
        async with asyncio.timeout(10):
            while house.runner.server.connections:
                await asyncio.sleep(0.01)
            go_on.set()
            while not opened[0].closed:
                await asyncio.sleep(0.01)
    finally:
        go_on.set()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_page_link_opens_no_file(house: WebHouse) -> None:
    key = put(house)
    page = house.links.page(key.split("/")[1], house.clock().replace(year=2030))
    assert (await error_of(house, f"/files/{quote(key)}?{page.partition('?')[2]}"))[0] == 403


@pytest.mark.parametrize(
    "key",
    ["jobs/{id}/input", "jobs/{id}/input.mp3", "keys/links.key", "stemify.sqlite3", "jobs/{id}/a1/../input",
     "jobs/{id}/a1/..",
     "jobs/{id}/a1/sub/file.mp3", "jobs/{id}/a0/file.mp3", "../etc/passwd", "/etc/passwd", "scratch/{id}-a1/raw",
     "jobs/{id}/a1/link.mp3", "jobs/{id}/a1"],
)  # fmt: skip
async def test_valid_signature_reaches_only_result_files(house: WebHouse, key: str) -> None:
    job_id = put(house, "real.mp3").split("/")[1]
    key = key.format(id=job_id)
    for path in ("keys/links.key", "stemify.sqlite3", f"jobs/{job_id}/input", f"jobs/{job_id}/a1/sub/file.mp3"):
        target = house.storage.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("secret")
    (house.storage.root / "jobs" / job_id / "a1" / "link.mp3").symlink_to(house.storage.root / "keys" / "links.key")
    link = house.file_link(key)
    for spelling in (link, link.replace("/..", "/%2E%2E"), link.replace("%2F", "/")):
        async with house.client.get(URL(house.url + spelling, encoded=True)) as response:
            assert response.status in (403, 404), spelling
            assert b"secret" not in await response.read()
