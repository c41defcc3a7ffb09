"""`GET /api/jobs/{id}/events`: a job's state and every change as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from aiohttp import web

from engine.errors import NotFound
from engine.jobs.job import JobView
from engine.web.api import readable_job
from engine.web.event_stream import KEEP_ALIVE_S, EventStream, respond
from engine.web.keys import CLOSING, SERVICE
from engine.web.schemas import job_event, to_json

_LAST_ID = "over"


def add_routes(app: web.Application) -> None:
    app.router.add_get("/api/jobs/{job_id}/events", events)


async def events(request: web.Request) -> web.StreamResponse:
    """Stream a job's events. The last one has the id "over"; a client that reconnects after it gets 204 and stops."""
    view = await readable_job(request)
    if view.job.is_over and request.headers.get("Last-Event-ID") == _LAST_ID:
        return web.Response(status=204)
    return await respond(request, lambda stream: _follow(request, stream, view.job.id))


async def _follow(request: web.Request, stream: EventStream, job_id: str) -> None:
    closing = asyncio.create_task(request.app[CLOSING].wait())
    views = request.app[SERVICE].watch(job_id)
    upcoming = _next_view(views)
    try:
        while not closing.done():
            await asyncio.wait(
                [upcoming, closing], timeout=request.app[KEEP_ALIVE_S], return_when=asyncio.FIRST_COMPLETED
            )
            if not upcoming.done():
                await stream.keep_alive()
                continue
            try:
                view = upcoming.result()
            except NotFound:  # the job was deleted
                await stream.send(f'{{"jobId": "{job_id}"}}', event="gone", event_id=_LAST_ID)
                return
            if view is None:
                return
            await stream.send(to_json(job_event(view)), event_id=_LAST_ID if view.job.is_over else "")
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
