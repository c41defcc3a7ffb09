"""Download attachments over real sockets: listed hosts only, never over the cap."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from engine.errors import AttachmentGone, BadAttachment, SourceUnreachable, StemifyError, TooLarge
from engine.sources.attachment import fetch_attachment

SIGNED = "ex=66aa&is=77bb&hm=deadbeef"
BODY = bytes(range(256)) * 1000


class Cdn:
    """A fake of Discord's file server that can fail in every way."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.elsewhere = ""
        app = web.Application()
        app.router.add_get("/{name}", self.answer)
        self.server = TestServer(app)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def url(self, name: str) -> str:
        return f"http://{self.host}/{name}?{SIGNED}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.requests.append(request.path_qs)
        match name:
            case "song":
                return web.Response(body=BODY)
            case "around":
                raise web.HTTPFound(f"/song?{SIGNED}")
            case "circle":
                raise web.HTTPFound(f"/circle?{SIGNED}")
            case "away":
                raise web.HTTPFound(self.elsewhere)
            case "endless":
                response = web.StreamResponse()
                await response.prepare(request)
                for _ in range(10_000):
                    await response.write(BODY)
                return response
            case "short":
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(b"half")
                assert request.transport is not None
                request.transport.close()
                return response
            case "zipped":
                response = web.Response(body=bytes(10_000_000))
                response.enable_compression(web.ContentCoding.gzip)
                return response
            case _:
                return web.Response(status=int(name))


@pytest.fixture
async def cdn() -> AsyncIterator[Cdn]:
    cdn = Cdn()
    await cdn.server.start_server()
    yield cdn
    await cdn.server.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def download(session: aiohttp.ClientSession, url: str, *hosts: str, max_bytes: int = 1_000_000) -> bytes:
    return b"".join([part async for part in fetch_attachment(session, url, allowed_hosts=hosts, max_bytes=max_bytes)])


async def test_attachment_is_downloaded(session: aiohttp.ClientSession, cdn: Cdn) -> None:
    assert await download(session, cdn.url("song"), "cdn.discordapp.com", cdn.host) == BODY
    assert cdn.requests == [f"/song?{SIGNED}"]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/song.mp3",
        "https://cdn.discordapp.com.evil.org/song.mp3",
        "https://evilcdn.discordapp.com/song.mp3",
        "https://cdn.discordapp.com@evil.org/song.mp3",
        "https://me:secret@cdn.discordapp.com/song.mp3",
        "https://cdn.discordapp.com:8443/song.mp3",
        "http://cdn.discordapp.com/song.mp3",
        "http://10.0.0.1:80/song.mp3",
        "ftp://cdn.discordapp.com/song.mp3",
        "file:///etc/passwd",
        "//cdn.discordapp.com/song.mp3",
        "http://127.0.0.1:1/song",
        "http://localhost/song",
        "https://[::1/song",
        "",
    ],
)
async def test_unlisted_host_is_refused(session: aiohttp.ClientSession, url: str) -> None:
    with pytest.raises(BadAttachment) as refusal:
        await download(session, url, "cdn.discordapp.com", "10.0.0.1:80")
    assert "Attach the file to a message" in refusal.value.message


async def test_listed_host_with_other_port_is_refused(session: aiohttp.ClientSession, cdn: Cdn) -> None:
    with pytest.raises(BadAttachment):
        await download(session, cdn.url("song"), "127.0.0.1")
    assert cdn.requests == []


async def test_redirects_stay_on_the_list(session: aiohttp.ClientSession, cdn: Cdn) -> None:
    assert await download(session, cdn.url("around"), cdn.host) == BODY
    other = Cdn()
    await other.server.start_server()
    cdn.elsewhere = other.url("song")
    with pytest.raises(BadAttachment):
        await download(session, cdn.url("away"), cdn.host)
    assert other.requests == []
    await other.server.close()
    with pytest.raises(BadAttachment):
        await download(session, cdn.url("circle"), cdn.host)
    assert cdn.requests.count(f"/circle?{SIGNED}") == 4


async def test_cap_holds_for_any_stated_length(session: aiohttp.ClientSession, cdn: Cdn) -> None:
    with pytest.raises(TooLarge, match=r"0\.2 MB\. The limit is 0\.1 MB"):
        await download(session, cdn.url("song"), cdn.host, max_bytes=104_858)
    received = 0
    with pytest.raises(TooLarge):
        async for part in fetch_attachment(session, cdn.url("endless"), allowed_hosts=[cdn.host], max_bytes=1_000_000):
            received += len(part)
    assert received <= 1_000_000
    with pytest.raises(TooLarge):  # counted after decompression
        await download(session, cdn.url("zipped"), cdn.host)


@pytest.mark.parametrize(
    ("status", "kind", "transient"),
    [
        (404, AttachmentGone, False),
        (403, AttachmentGone, False),
        (410, AttachmentGone, False),
        (500, SourceUnreachable, True),
        (429, SourceUnreachable, True),
        (206, SourceUnreachable, True),
    ],
)
async def test_server_error_becomes_user_message(
    session: aiohttp.ClientSession, cdn: Cdn, status: int, kind: type[StemifyError], transient: bool
) -> None:
    with pytest.raises(kind) as failure:
        await download(session, cdn.url(str(status)), cdn.host)
    assert failure.value.transient is transient


async def test_interrupted_download_is_transient(session: aiohttp.ClientSession, cdn: Cdn) -> None:
    with pytest.raises(SourceUnreachable, match="was interrupted"):
        await download(session, cdn.url("short"), cdn.host)
    url, host = cdn.url("song"), cdn.host
    await cdn.server.close()
    with pytest.raises(SourceUnreachable, match="is not responding"):
        await download(session, url, host)


async def test_errors_and_logs_have_no_signed_address(
    session: aiohttp.ClientSession, cdn: Cdn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cdn.elsewhere = f"https://example.org/song?{SIGNED}"
    gone = cdn.url("song")
    for url in (cdn.url("away"), cdn.url("short"), f"https://example.org/a?{SIGNED}", gone.replace("http:", "htp:")):
        with pytest.raises(StemifyError) as failure:
            await download(session, url, cdn.host)
        error: BaseException | None = failure.value
        while error is not None:
            assert "deadbeef" not in f"{error} {getattr(error, 'detail', '')}"
            error = error.__cause__
    own_lines = [record.getMessage() for record in caplog.records if not record.name.startswith("aiohttp.access")]
    assert not any("deadbeef" in line for line in own_lines)
