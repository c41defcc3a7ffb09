"""Limits of connections over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.web.connections import Connection
from tests.fixtures.web_backend import WebServer, open_web_server

Connected = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WebServer]:
    async with open_web_server(tmp_path) as server:
        yield server


async def connected(server: WebServer, source: str = "127.0.0.1") -> Connected:
    host, port = server.runner.addresses[0][:2]
    return await asyncio.open_connection(host, port, local_addr=(source, 0))


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read the status, headers and body of the next response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["Content-Length"]))


async def is_alive(server: WebServer, source: str = "127.0.0.1") -> bool:
    """Return True if a new connection is accepted and gets a response."""
    reader, writer = await connected(server, source)
    try:
        async with asyncio.timeout(60):
            writer.write(HEAD + b"\r\n")
            return (await answer(reader))[0] == 200
    except (ConnectionError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.close()


MALFORMED = {
    "not HTTP": b"GARBAGE\x00SECRET\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01SECRET",
    "null in a header": HEAD + b"X-Secret: 1\x00SECRET\r\n\r\n",
    "no host": b"GET /SECRET HTTP/1.1\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\nX: SECRET\r\n\r\n",
    "long path": b"GET /" + b"SECRET" * 2000 + b" HTTP/1.1\r\n",
    "long header": HEAD + b"X: " + b"SECRET" * 2000 + b"\r\n",
    "many headers": HEAD + b"X: SECRET\r\n" * 200,
    "bad target": b"GET http:// HTTP/1.1\r\nHost: SECRET\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_request_is_one_line_and_json(
    server: WebServer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level("INFO")
    reader, writer = await connected(server)
    writer.write(MALFORMED[name])
    async with asyncio.timeout(60):
        status, headers, body = await answer(reader)
        assert await reader.read() == b"", "the connection is closed"
    writer.close()
    assert status == 400
    assert json.loads(body)["error"]["code"] == "bad_request"
    assert headers["Content-Type"].startswith("application/json") and headers["Server"] == "Stemify"
    assert headers["X-Content-Type-Options"] == "nosniff" and "Content-Security-Policy" in headers
    (record,) = [record for record in caplog.records if record.name != "asyncio"]
    line = logging.Formatter().format(record)
    assert "malformed request" in line and "SECRET" not in line and len(line) < 100


async def test_client_disconnect_is_not_logged_as_failure(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    job_id = await server.job(done=True, vocals=b"x" * 20_000_000)
    link = (await server.service.get(job_id)).links[0].url.removeprefix(server.links.base_url)
    for path in (link, f"/api/jobs/{job_id}/stems.zip", f"/api/jobs/{job_id}/events"):
        reader, writer = await connected(server)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        assert await is_alive(server)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info]


async def test_unknown_expectation_is_refused_as_json(server: WebServer) -> None:
    reader, writer = await connected(server)
    writer.write(HEAD + b"Expect: SECRET\r\n\r\n")
    status, headers, body = await answer(reader)
    writer.close()
    assert (status, json.loads(body)["error"]["code"]) == (417, "expectation_failed")
    assert headers["X-Content-Type-Options"] == "nosniff" and b"SECRET" not in body


async def test_slow_heads_are_not_refused_all_at_once(server: WebServer) -> None:
    opened = [await connected(server) for _ in range(20)]
    for _, writer in opened:
        writer.write(b"G")
    assert server.runner.server is not None
    waits_s: list[float] = []
    async with asyncio.timeout(60):
        while len(waits_s) < len(opened):
            await asyncio.sleep(0.02)
            connections = [each for each in server.runner.server.connections if isinstance(each, Connection)]
            timers = [(each._head_timer, each.last_byte_at) for each in connections]
            waits_s = [timer.when() - since_s for timer, since_s in timers if timer is not None]
    assert max(waits_s) - min(waits_s) > 0.1, "without a spread they differ by microseconds"
    for _, writer in opened:
        writer.close()


@pytest.fixture
async def hurried(tmp_path: Path) -> AsyncIterator[WebServer]:
    """Run a server with short time limits."""
    async with open_web_server(tmp_path, head_s=0.3, idle_s=1.0) as server:
        yield server


@pytest.mark.parametrize("start", [b"G", HEAD + b"X: ", b"\r\n\r\n", HEAD + b"\r\n" + HEAD])
async def test_slow_head_is_refused_with_408(hurried: WebServer, start: bytes) -> None:
    reader, writer = await connected(hurried)

    async def trickle() -> None:
        writer.write(start)
        while True:
            await asyncio.sleep(0.1)
            writer.write(b"\r\n" if start.startswith(b"\r\n") else b"x" if start.startswith(HEAD) else b"")

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(60):
        if start.count(HEAD) == 2:
            assert (await answer(reader))[0] == 200
        status, _, body = await answer(reader)
        assert (status, json.loads(body)["error"]["code"]) == (408, "request_too_slow")
        assert await reader.read() == b""
    trickling.cancel()
    writer.close()


async def test_endless_head_is_refused_with_431(server: WebServer) -> None:
    reader, writer = await connected(server)
    async with asyncio.timeout(60):
        writer.write(HEAD)
        for _ in range(70):
            writer.write(b"\r\nX: ".strip() + b"y" * 1000 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)
        status, _, body = await answer(reader)
    writer.close()
    assert (status, json.loads(body)["error"]["code"]) == (431, "head_too_large")


@pytest.mark.parametrize("first", [b"", HEAD + b"\r\n"])
async def test_idle_connection_is_closed(hurried: WebServer, first: bytes) -> None:
    reader, writer = await connected(hurried)
    writer.write(first)
    async with asyncio.timeout(60):
        if first:
            assert (await answer(reader))[0] == 200
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("kind", ["file", "zip", "page"])
async def test_unread_response_is_aborted(hurried: WebServer, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    job_id = await hurried.job(done=True, vocals=b"x" * 30_000_000)
    link = (await hurried.service.get(job_id)).links[0].url.removeprefix(hurried.links.base_url)
    path = {"file": link, "zip": f"/api/jobs/{job_id}/stems.zip", "page": "/static/app.css"}[kind]
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, hurried.runner.addresses[0][:2])
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    await asyncio.get_running_loop().sock_sendall(sock, request * (200 if kind == "page" else 1))
    await hurried.client.close()
    await asyncio.sleep(0.3)
    server = hurried.runner.server
    assert server is not None and len(server.connections) == 1
    async with asyncio.timeout(60):
        while server.connections:
            await asyncio.sleep(0.05)
    sock.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info]


async def streams(server: WebServer, count: int) -> list[asyncio.StreamWriter]:
    """Open that many connections from 127.0.0.1, each with an event stream."""
    job_id = await server.job()
    await server.client.close()
    opened = []
    for _ in range(count):
        reader, writer = await connected(server)
        writer.write(f"GET /api/jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"data: ")
        opened.append(writer)
    return opened


async def nobody_left(server: WebServer, opened: list[asyncio.StreamWriter]) -> None:
    for writer in opened:
        writer.transport.abort()
    async with asyncio.timeout(60):
        while server.service.watching:
            await asyncio.sleep(0.01)


async def test_address_with_too_many_connections_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_web_server(tmp_path, connections_per_address=3) as server:
        opened = await streams(server, 3)
        for _ in range(5):
            assert not await is_alive(server)
        assert await is_alive(server, "127.0.0.2")
        await nobody_left(server, opened)
        assert await is_alive(server)
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == [
        "engine.web.connections"
    ], "one line a minute"


async def test_connections_in_all_are_limited(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, connections=3) as server:
        opened = await streams(server, 3)
        assert not await is_alive(server, "127.0.0.2")
        await nobody_left(server, opened)
        assert await is_alive(server, "127.0.0.2")


@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
@pytest.mark.parametrize("start", [b"", HEAD, HEAD + b"\r\n"])
async def test_waiting_connections_make_room_for_new_ones(tmp_path: Path, limit: str, start: bytes) -> None:
    limits: dict[str, Any] = {limit: 5}
    async with open_web_server(tmp_path, **limits) as server:
        opened = []
        for _ in range(20):
            reader, writer = await connected(server)
            writer.write(start)
            if start.endswith(b"\r\n\r\n"):
                assert (await answer(reader))[0] == 200
            opened.append(writer)
        for _ in range(5):
            assert await is_alive(server)
        assert server.runner.server is not None and len(server.runner.server.connections) <= 5
        for writer in opened:
            writer.close()


async def test_trusted_proxy_is_not_limited_by_address(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, connections_per_address=3, trusted_proxies=["127.0.0.1"]) as server:
        opened = await streams(server, 6)
        assert await is_alive(server)
        await nobody_left(server, opened)


async def test_failed_accept_is_one_log_line(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = await connected(server)  # its descriptor is above the limit
    waiting = socket.socket()
    waiting.setblocking(False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        await asyncio.get_running_loop().sock_connect(waiting, server.runner.addresses[0][:2])
        await asyncio.sleep(2.2)
        writer.write(HEAD + b"\r\n")
        assert (await answer(reader))[0] == 200, "open connections are served"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await asyncio.get_running_loop().sock_sendall(waiting, HEAD + b"\r\n")
    async with asyncio.timeout(60):
        assert (await asyncio.get_running_loop().sock_recv(waiting, 100)).startswith(b"HTTP/1.1 200")
    waiting.close()
    writer.close()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "cannot accept connections" in record.getMessage() and record.exc_info is None
