"""Connections over real sockets: malformed requests, slow heads, idle and unread connections, too many of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web_house import WebHouse, open_web_house

Connected = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[WebHouse]:
    async with open_web_house(tmp_path) as house:
        yield house


async def connected(house: WebHouse, source: str = "127.0.0.1") -> Connected:
    host, port = house.runner.addresses[0][:2]
    return await asyncio.open_connection(host, port, local_addr=(source, 0))


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["Content-Length"]))


async def is_alive(house: WebHouse, source: str = "127.0.0.1") -> bool:
    reader, writer = await connected(house, source)
    writer.write(HEAD + b"\r\n")
    status, _, _ = await answer(reader)
    writer.close()
    return status == 200


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
    house: WebHouse, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level("INFO")
    reader, writer = await connected(house)
    writer.write(MALFORMED[name])
    async with asyncio.timeout(10):
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
