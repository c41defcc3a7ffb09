"""`GET /api/jobs/{id}/events`: a job's state and every change as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterator

from aiohttp import web

from engine.errors import NotFound
from engine.jobs.job import JobView
from engine.web.api import readable_job
from engine.web.errors import TooManyStreams
from engine.web.keys import ACCESS, CLOSING, SERVICE, SETTINGS
from engine.web.schemas import job_event, to_json

KEEP_ALIVE_S = web.AppKey("keep_alive_s", float)
_LAST_ID = "over"
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


def add_routes(app: web.Application) -> None:
    settings = app[SETTINGS].web
    app[STREAMS] = StreamLimiter(in_all=settings.event_streams, per_address=settings.event_streams_per_address)
    app.router.add_get("/api/jobs/{job_id}/events", events)


async def events(request: web.Request) -> web.StreamResponse:
    """Stream a job's events. The last one has the id "over"; a client that reconnects after it gets 204 and stops."""
    view = await readable_job(request)
    if view.job.is_over and request.headers.get("Last-Event-ID") == _LAST_ID:
        return web.Response(status=204)
    if request.method == "HEAD":
        return web.Response(headers=_HEADERS)
    with request.app[STREAMS].acquire(request.app[ACCESS].owner(request)):
        return await _stream(request, view.job.id)


async def _stream(request: web.Request, job_id: str) -> web.StreamResponse:
    response = web.StreamResponse(headers=_HEADERS)
    await response.prepare(request)
    with contextlib.suppress(ConnectionError, TimeoutError):  # the client disconnected or stopped reading
        await _write(response, f"retry: {_RECONNECT_MS}\n\n")
        await _follow(request, response, job_id)
        await response.write_eof()
    return response


async def _follow(request: web.Request, response: web.StreamResponse, job_id: str) -> None:
    closing = asyncio.create_task(request.app[CLOSING].wait())
    views = request.app[SERVICE].watch(job_id)
    upcoming = _next_view(views)
    try:
        while not closing.done():
            await asyncio.wait(
                [upcoming, closing], timeout=request.app[KEEP_ALIVE_S], return_when=asyncio.FIRST_COMPLETED
            )
            if not upcoming.done():
                await _write(response, ": still here\n\n")
                continue
            try:
                view = upcoming.result()
            except NotFound:  # the job was deleted
                await _write(response, f'id: {_LAST_ID}\nevent: gone\ndata: {{"jobId": "{job_id}"}}\n\n')
                return
            if view is None:
                return
            last = f"id: {_LAST_ID}\n" if view.job.is_over else ""
            await _write(response, f"{last}data: {to_json(job_event(view))}\n\n")
            upcoming = _next_view(views)
    finally:
        closing.cancel()
        upcoming.cancel()
        await asyncio.gather(closing, upcoming, return_exceptions=True)
        await views.aclose()


def _next_view(views: AsyncGenerator[JobView, None]) -> asyncio.Task[JobView | None]:
    async def next_or_none() -> JobView | None:
        return await anext(views, None)

    return asyncio.create_task(next_or_none())


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(_SLOW_READER_S):
        await response.write(text.encode())
