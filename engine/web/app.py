"""The web application: routes, middlewares and server options."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from config.settings import Settings
from engine.clock import utc_now
from engine.service.links import Links
from engine.service.sample import SampleSong
from engine.service.service import StemService
from engine.service.stages import Stages
from engine.storage.storage import Storage
from engine.web import api, comparisons, event_stream, events, files, health, mixes, openapi, overview, pages, stage
from engine.web import zip as stems_zip
from engine.web.access import SAFE_METHODS, Access
from engine.web.connections import LOGGED, ConnectionLimits, Connections, LimitedRunner
from engine.web.errors import Handler, UnsupportedEncoding, answer_errors
from engine.web.headers import common_headers
from engine.web.keys import ACCESS, CLOSING, LINKS, METRICS, NOW, SAMPLE, SERVICE, SETTINGS, STAGES, STORAGE
from engine.web.metrics import Metrics

HEAD_S = 15.0
IDLE_S = 60.0
_READ_BYTES = 16 * 1024  # of a body; aiohttp buffers up to 16 times as many chunks
_LINGER_S = 1.0  # the rest of a refused upload is read for this long, or the client would lose the response


def create_app(
    service: StemService,
    settings: Settings,
    links: Links,
    storage: Storage,
    stages: Stages | None = None,
    *,
    sample: SampleSong | None = None,
    now: Callable[[], datetime] = utc_now,
    keep_alive_s: float = 15.0,
) -> web.Application:
    """Create the application. Raises `ConfigurationError` if these settings are not safe to serve."""
    access = Access(settings.web)
    app = web.Application(middlewares=[count_requests, answer_errors, enforce_host_and_origin])
    app[SERVICE], app[SETTINGS], app[LINKS], app[STORAGE] = service, settings, links, storage
    app[ACCESS], app[METRICS], app[NOW] = access, Metrics(), now
    app[SAMPLE], app[STAGES] = sample, stages or Stages(links)
    app[CLOSING], app[event_stream.KEEP_ALIVE_S] = asyncio.Event(), keep_alive_s
    event_stream.prepare(app)
    for module in (files, api, comparisons, mixes, overview, events, stems_zip, stage, health, openapi):
        module.add_routes(app)
    app.add_routes(pages.routes)
    app.on_response_prepare.append(common_headers(links.base_url))
    app.on_shutdown.append(_end_streams)
    return app


@web.middleware
async def count_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    request.app[METRICS].count(request, response)
    return response


@web.middleware
async def enforce_host_and_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    encodings = ",".join(request.headers.getall("Content-Encoding", [])).lower()
    if {encoding.strip() for encoding in encodings.split(",")} - {"", "identity"}:
        raise UnsupportedEncoding
    access = request.app[ACCESS]
    if not request.path.startswith("/static/"):  # the page for a wrong host needs its style
        access.check_host(request)
    if request.method not in SAFE_METHODS:
        access.check_origin(request)
    return await handler(request)


async def _end_streams(app: web.Application) -> None:
    app[CLOSING].set()


def make_runner(app: web.Application, *, head_s: float = HEAD_S, idle_s: float = IDLE_S) -> LimitedRunner:
    """Create the runner.

    Handlers of disconnected clients are cancelled, refused uploads are not read to the end, bodies are not
    decompressed, and the access log omits query strings.
    """
    settings = app[SETTINGS].web
    limits = ConnectionLimits(settings.connections, settings.connections_per_address, head_s=head_s, idle_s=idle_s)
    return LimitedRunner(
        app,
        Connections(limits, app[ACCESS]),
        handler_cancellation=True,
        keepalive_timeout=idle_s,
        shutdown_timeout=2.0,
        lingering_time=_LINGER_S,
        auto_decompress=False,
        read_bufsize=_READ_BYTES,
        access_log_class=_AccessLog,
        access_log=logging.getLogger("engine.web.access"),
        access_log_format="",
    )


class _AccessLog(AbstractAccessLogger):
    """Write one line per request, without the query string, which may hold a signature."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if LOGGED in request:
            return
        address = request.remote
        if isinstance(request, web.Request) and ACCESS in request.app:
            address = str(request.app[ACCESS].address(request) or "-")
        is_probe = request.path in ("/healthz", "/readyz", "/metrics")
        self.logger.log(
            logging.DEBUG if is_probe and response.status < 400 else logging.INFO,
            "%s %s %.200s %d %d B %.0f ms", address, request.method, request.path, response.status,
            response.body_length, time * 1000,
        )  # fmt: skip

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.INFO)
