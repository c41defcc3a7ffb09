"""The servers of the fake YouTube: HTTPS, and a proxy that sends every host name to it."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme
from aiohttp import web

from tests.fakes.youtube import puzzle
from tests.fakes.youtube.video import Video

HOSTS = ("www.youtube.com", "m.youtube.com", "music.youtube.com", "*.googlevideo.com")
STALLED_BYTES = 2000


@dataclass(frozen=True)
class Seen:
    """One request that arrived, after TLS."""

    host: str
    method: str
    path: str
    range: str | None
    cookie: str | None


class FakeYoutube:
    """`fails_with`: an HTTP status for every page and API call. `stalls`: "watch" lets the watch page hang."""

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "fake-youtube-ca.pem"
        self.videos: dict[str, Video] = {}
        self.connects: list[str] = []  # host:port, as requested from the proxy
        self.seen: list[Seen] = []
        self.fails_with: int | None = None
        self.stalls: str | None = None
        self.player_js = puzzle.PLAYER_JS
        self.proxy_url = ""
        self._tunnels: set[asyncio.Task[None]] = set()

    def add(self, video: Video) -> Video:
        self.videos[video.id] = video
        return video

    @property
    def media_seen(self) -> list[Seen]:
        return [request for request in self.seen if request.path.startswith("/videoplayback")]

    async def __aenter__(self) -> Self:
        ca = trustme.CA(organization_name="Fake YouTube")
        ca.cert_pem.write_to_path(self.ca_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(*HOSTS).configure_cert(context)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self._tls_port: int = self._runner.addresses[0][1]
        self._proxy = await asyncio.start_server(self._tunnel, "127.0.0.1", 0)
        self.proxy_url = f"http://127.0.0.1:{self._proxy.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy.close()
        for tunnel in self._tunnels:
            tunnel.cancel()
        await asyncio.gather(*self._tunnels, return_exceptions=True)
        await self._runner.cleanup()

    # The proxy.

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tunnels.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                self.connects.append(target)
                if method != "CONNECT" or not target.endswith((".youtube.com:443", ".googlevideo.com:443")):
                    writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                    await writer.drain()
                    return
                far_reader, far = await asyncio.open_connection("127.0.0.1", self._tls_port)
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(_pour(reader, far), _pour(far_reader, writer))
        except asyncio.CancelledError:
            pass  # the test ended
        finally:
            self._tunnels.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.close()

    # The pages.

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        cookie = request.headers.get("Cookie")
        self.seen.append(Seen(request.host, request.method, path, request.headers.get("Range"), cookie))
        if path == "/videoplayback":
            return await self._media(request, self.videos[request.query["id"]])
        if self.fails_with is not None:
            return web.Response(status=self.fails_with)
        if path == "/watch":
            if self.stalls == "watch":
                await asyncio.sleep(3600)
            return web.Response(text=self._watch_page(request.query["v"]), content_type="text/html")
        if path == "/youtubei/v1/player":
            return web.json_response(self._player_response((await request.json())["videoId"], playable=True))
        if path.startswith("/embed/"):
            return web.Response(text=self._watch_page(path.removeprefix("/embed/")), content_type="text/html")
        if path.startswith("/s/player/"):
            return web.Response(text=self.player_js, content_type="text/javascript")
        return web.Response(status=404)

    def _player_response(self, video_id: str, *, playable: bool) -> dict[str, object]:
        video = self.videos.get(video_id)
        if video is None:
            video = Video(video_id, status="ERROR", reason="Video unavailable")
        return video.player_response(playable=playable)

    def _watch_page(self, video_id: str) -> str:
        client = {"clientName": "WEB", "clientVersion": "2.20260708.00.00", "hl": "en", "visitorData": "CgtmYWtl"}
        config = {
            "INNERTUBE_API_KEY": "fake",
            "INNERTUBE_CONTEXT": {"client": client},
            "INNERTUBE_CONTEXT_CLIENT_NAME": 1,
            "PLAYER_JS_URL": puzzle.PLAYER_PATH,
        }
        player = self._player_response(video_id, playable=False)
        data = self.videos[video_id].watch_data() if video_id in self.videos else {"contents": {"none": {}}}
        return (
            f"<html><script>ytcfg.set({json.dumps(config)});</script>"
            f"<script>var ytInitialPlayerResponse = {json.dumps(player)};</script>"
            f"<script>var ytInitialData = {json.dumps(data)};</script></html>"
        )

    # The media.

    async def _media(self, request: web.Request, video: Video) -> web.StreamResponse:
        video.media_requests += 1
        if video.behaviour == "unavailable":
            return web.Response(status=503)
        if video.behaviour == "forbid" or (video.behaviour == "forbid_once" and video.media_requests == 1):
            return web.Response(status=403)
        if request.query.get("n") != puzzle.solved_n(video.challenge):
            return web.Response(status=403)
        if video.signed and request.query.get("sig") != puzzle.solved_signature(video.signature):
            return web.Response(status=403)
        size = len(video.media)
        start, stop = 0, size
        range_header = request.headers.get("Range") if video.says_length else None
        if range_header is not None:
            first, _, last = range_header.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, size) if last else size
        headers = {"Content-Type": video.mime.partition(";")[0]}
        if range_header is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        answer = web.StreamResponse(status=200 if range_header is None else 206, headers=headers)
        if video.says_length:
            answer.content_length = stop - start
        await answer.prepare(request)
        if video.behaviour in ("stall", "break"):
            await answer.write(video.media[start : start + STALLED_BYTES])
            if video.behaviour == "stall":
                await asyncio.sleep(3600)
            assert request.transport is not None
            request.transport.abort()
            return answer
        block_bytes = 1 << 18
        with suppress(ConnectionError):  # the client disconnected
            for at in range(start, stop, block_bytes):
                await answer.write(video.media[at : min(at + block_bytes, stop)])
        return answer


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()
    with suppress(OSError):
        writer.close()
