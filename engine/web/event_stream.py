"""Server-sent events: the response, and a limit on how many are open."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import web

from engine.web.errors import TooManyStreams
from engine.web.keys import ACCESS, SETTINGS

KEEP_ALIVE_S = web.AppKey("keep_alive_s", float)
_RECONNECT_MS = 3000
_SLOW_READER_S = 30.0
_RETRY_AFTER_S = 60.0
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would buffer the events
}


class StreamLimiter:
    """Limit the open event streams, in total and per address: each holds memory and a watcher."""

    def __init__(self, *, in_all: int, per_address: int) -> None:
        self._in_all, self._per_address = in_all, per_address
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def acquire(self, address: str) -> Iterator[None]:
        """Count one stream of the address while it is open. Raises `TooManyStreams`."""
        if self._open[address] >= self._per_address or self._open.total() >= self._in_all:
            raise TooManyStreams(retry_after_s=_RETRY_AFTER_S)
        self._open[address] += 1
        try:
            yield
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]


STREAMS = web.AppKey("streams", StreamLimiter)


def prepare(app: web.Application) -> None:
    settings = app[SETTINGS].web
    app[STREAMS] = StreamLimiter(in_all=settings.event_streams, per_address=settings.event_streams_per_address)


class EventStream:
    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    async def send(self, data: str, *, event: str = "", event_id: str = "") -> None:
        """Send an event; `data` has no line breaks."""
        fields = {"id": event_id, "event": event}
        head = "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
        await self._write(f"{head}data: {data}\n\n")

    async def keep_alive(self) -> None:
        await self._write(": still here\n\n")

    async def start(self) -> None:
        await self._write(f"retry: {_RECONNECT_MS}\n\n")

    async def _write(self, text: str) -> None:
        async with asyncio.timeout(_SLOW_READER_S):
            await self._response.write(text.encode())


async def respond(request: web.Request, send_events: Callable[[EventStream], Awaitable[None]]) -> web.StreamResponse:
    """Answer with the events that `send_events` sends, until it returns or the client disconnects.

    Raises `TooManyStreams`.
    """
    if request.method == "HEAD":
        return web.Response(headers=_HEADERS)
    with request.app[STREAMS].acquire(request.app[ACCESS].owner(request)):
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        stream = EventStream(response)
        with contextlib.suppress(ConnectionError, TimeoutError):  # the client disconnected or stopped reading
            await stream.start()
            await send_events(stream)
            await response.write_eof()
        return response
