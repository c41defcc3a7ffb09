"""Hostile request bodies, which are refused after little of them is read."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from engine.errors import TooLarge
from engine.web.body import CappedBody
from engine.web.errors import UploadTooSlow
from tests.fixtures.web_backend import TOKEN, WebServer, open_web_server

MB = 2**20
POST = b"POST /api/stemify HTTP/1.1\r\nHost: localhost\r\n"
JSON = POST + b"Content-Type: application/json\r\n"
FORM = POST + b"Content-Type: multipart/form-data; boundary=b\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WebServer]:
    async with open_web_server(tmp_path) as server:
        yield server


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


async def answer_to(server: WebServer, head: bytes, pieces: Iterable[bytes]) -> tuple[int, dict[str, str], int]:
    """Send a request in pieces until the response; return its status, its error and the bytes sent."""
    reader, writer = await asyncio.open_connection(*server.runner.addresses[0][:2])
    sent_bytes = 0

    async def push() -> None:
        nonlocal sent_bytes
        writer.write(head + b"\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            sent_bytes += len(piece)
            await asyncio.sleep(0)

    pushing = asyncio.create_task(push())
    try:
        async with asyncio.timeout(60):
            start = await reader.readuntil(b"\r\n\r\n")
            pushing.cancel()
            body: dict[str, Any] = json.loads(await reader.readuntil(b"}}"))
    finally:
        pushing.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await pushing
        writer.close()
    assert not server.service.jobs
    return int(start.split()[1]), body["error"], sent_bytes


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "identity, gzip", "compress"])
@pytest.mark.parametrize("path", ["/api/stemify", "/nothing", "/healthz"])
async def test_encoded_body_is_refused_with_415(server: WebServer, path: str, encoding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    body = gzip.compress(b'{"youtubeUrl": "https://youtu.be/dQw4w9WgXcQ"}')
    async with server.client.post(path, data=body, headers=headers) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (415, "unsupported_encoding")


async def test_second_encoding_header_is_refused_with_415(server: WebServer) -> None:
    head = JSON + b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n"
    status, error, _ = await answer_to(server, head, [b"{}"])
    assert (status, error["code"]) in ((415, "unsupported_encoding"), (400, "bad_request"))


async def test_encoded_body_without_token_is_refused_with_415(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, api_tokens=[TOKEN]) as server:
        async with server.client.post("/api/stemify", data=b"x", headers={"Content-Encoding": "br"}) as response:
            assert response.status == 415
        async with server.client.post("/api/stemify", data=b"x") as response:
            assert response.status == 401


async def test_refused_body_is_not_decompressed(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    head = JSON + b"Content-Encoding: gzip\r\nContent-Length: 2000\r\n"
    status, _, _ = await answer_to(server, head, [b"not gzip" * 100])  # decompression would fail, and be logged
    await asyncio.sleep(0.1)
    assert status == 415
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


async def test_identity_encoding_is_accepted(server: WebServer) -> None:
    link, headers = {"youtubeUrl": "https://youtu.be/dQw4w9WgXcQ"}, {"Content-Encoding": "Identity"}
    async with server.client.post("/api/stemify", json=link, headers=headers) as response:
        assert response.status == 202


async def test_endless_json_is_cut_off_at_its_limit(server: WebServer) -> None:
    block = chunked(b" " * 65536)
    status, error, sent_bytes = await answer_to(server, JSON + CHUNKED, itertools.repeat(block))
    assert (status, error["code"]) == (413, "too_large")
    assert sent_bytes < 16 * MB


async def test_json_in_many_pieces_is_read_whole(server: WebServer) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in b'{"youtubeUrl": "https://youtu.be/dQw4w9WgXcQ"' + b" " * 20_000 + b"}":
            yield bytes([byte])
            if byte != 32:
                await asyncio.sleep(0)

    headers = {"Content-Type": "application/json"}
    async with server.client.post("/api/stemify", data=pieces(), headers=headers) as response:
        assert response.status == 202


LINES = {
    "blank lines before the first boundary": b"\n" * 65536,
    "lines before the first boundary": b"x\r\n" * 20000,
    "one line without an end": b"x" * 65536,
    "part headers": b"--b\r\n" + b"X: y\r\n" * 10000,
    "a part header without an end": b"--b\r\nX: " + b"y" * 65536,
    "parts": b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n' * 1000,
}


@pytest.mark.parametrize("name", LINES)
async def test_form_of_endless_lines_is_refused(server: WebServer, name: str) -> None:
    start, further = LINES[name], LINES[name].removeprefix(b"--b\r\n")
    pieces = itertools.chain([chunked(start)], itertools.repeat(chunked(further)))
    status, error, sent_bytes = await answer_to(server, FORM + CHUNKED, pieces)
    assert (status, error["code"]) == (400, "bad_request")
    assert sent_bytes < 8 * MB


async def test_epilogue_is_not_read_to_its_end(server: WebServer) -> None:
    body = b"--b--\r\n" + b"\n" * 65536
    status, error, sent_bytes = await answer_to(server, FORM + CHUNKED, itertools.repeat(chunked(body)))
    assert (status, error["code"]) == (400, "bad_request")
    assert sent_bytes < 8 * MB


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "x-gzip"])
async def test_encoded_part_is_refused_with_415(server: WebServer, encoding: str) -> None:
    part = FILE + b"Content-Transfer-Encoding: " + encoding.encode() + b"\r\n\r\nc29uZw==\r\n--b--\r\n"
    status, error, _ = await answer_to(server, FORM + b"Content-Length: %d\r\n" % len(part), [part])
    assert (status, error["code"]) == (415, "unsupported_encoding")


FRAMING = {
    "chunks of one byte": chunked(*[b"x"] * 20000),
    "chunk extensions": b"1;" + b"a" * 65536 + b"\r\nx\r\n",
    "zeros before the chunk size": b"0" * 65536 + b"1\r\nx\r\n",
}


@pytest.mark.parametrize("name", FRAMING)
async def test_body_of_mostly_framing_is_refused(server: WebServer, name: str) -> None:
    pieces = itertools.chain([chunked(FILE + b"\r\n")], itertools.repeat(FRAMING[name]))
    status, error, sent_bytes = await answer_to(server, FORM + CHUNKED, pieces)
    assert (status, error["code"]) == (400, "bad_request")
    assert sent_bytes < 16 * MB


async def test_trailers_without_end_are_refused(server: WebServer) -> None:
    pieces = itertools.chain([chunked(b"{}") + b"0\r\n"], itertools.repeat(b"X: y\r\n" * 1000))
    status, error, sent_bytes = await answer_to(server, JSON + CHUNKED, pieces)
    assert (status, error["code"]) == (400, "bad_request")
    assert sent_bytes < 8 * MB


OPTIONS = b'--b\r\nContent-Disposition: form-data; name="options"\r\n\r\n{"model": "htdemucs"}\r\n'


@pytest.mark.parametrize(("excess_bytes", "expected"), [(-1000, 202), (0, 202), (1, 413)])
@pytest.mark.parametrize("file_first", [True, False])
async def test_file_size_limit_is_exact(tmp_path: Path, excess_bytes: int, expected: int, file_first: bool) -> None:
    file = FILE + b"\r\n" + bytes(MB + excess_bytes) + b"\r\n"
    body = (file + OPTIONS if file_first else OPTIONS + file) + b"--b--\r\n"
    async with open_web_server(tmp_path, max_bytes=MB) as server:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        async with server.client.post("/api/stemify", data=io.BytesIO(body), headers=headers) as response:
            assert response.status == expected


async def test_bytes_read_twice_count_once() -> None:
    content = StreamReader(BaseProtocol(asyncio.get_running_loop()), 2**16)
    content.feed_data(b"x" * 100)
    content.feed_eof()
    body = CappedBody(content, 100, TooLarge.over(100))
    for _ in range(3):
        body.unread_data(await body.read(60))
    assert await body.read(100) == b"x" * 100


class SlowContent:
    """A body whose blocks take one second each, by the loop's clock."""

    def __init__(self, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._block = bytes(block_bytes)
        self.now_s = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now_s)

    async def read(self, n: int) -> bytes:
        self.now_s += 1
        return self._block


async def test_upload_below_minimum_rate_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    content = SlowContent(31_000, monkeypatch)
    body = CappedBody(cast(StreamReader, content), 50 * MB, TooLarge.over(MB))
    with pytest.raises(UploadTooSlow):
        for _ in range(60):
            await body.read(MB)
    assert content.now_s == 30


async def test_upload_above_minimum_rate_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = SlowContent(33_000, monkeypatch)
    body = CappedBody(cast(StreamReader, content), 50 * MB, TooLarge.over(MB))
    for _ in range(100):
        await body.read(MB)
    assert content.now_s == 100
