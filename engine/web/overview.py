"""`/api/models` and `/api/limits`: what this server can do, and what the caller may do."""

from __future__ import annotations

import math
from contextlib import suppress

from aiohttp import web

from engine.errors import StemifyError
from engine.jobs.entity import Entity
from engine.web.keys import ACCESS, SERVICE, SETTINGS
from engine.web.schemas import json_response


class Model(Entity):
    """A model; its cost is the time for a song on a CPU relative to htdemucs."""

    name: str
    description: str
    stems: tuple[str, ...]
    relative_cost: float
    measured_cost: float | None = None
    """Seconds per second of audio, as measured on this machine at quality `balanced`."""
    gpu_advisable: bool
    licence: str
    """Of the weights."""
    licence_source: str
    downloaded: bool
    size_bytes: int | None = None
    """Of the downloaded weights."""
    download_bytes: int | None = None
    """Of the download, if known."""
    usable: bool
    reason: str | None = None
    """Why it is not usable."""


class ModelsResponse(Entity):
    models: tuple[Model, ...]


class LimitsResponse(Entity):
    """Limits of songs, and jobs of the caller; null: no limit."""

    input_bytes: int
    input_duration_s: float
    jobs_per_hour: int | None = None
    jobs_left: int | None = None
    retry_after_s: int = 0
    """Until the next job is free; 0 while some are left."""


def add_routes(app: web.Application) -> None:
    app.router.add_get("/api/models", models)
    app.router.add_get("/api/limits", limits)
    app.on_response_prepare.append(_add_rate_limit)


async def models(request: web.Request) -> web.Response:
    request.app[ACCESS].require_token(request)
    measured = await request.app[SERVICE].measured_costs()
    body = ModelsResponse(
        models=tuple(
            Model(
                name=each.name,
                description=each.info.description,
                stems=each.info.stems,
                relative_cost=each.info.cost,
                measured_cost=measured.get(each.name),
                gpu_advisable=each.info.advises_gpu,
                licence=each.info.licence,
                licence_source=each.info.licence_source,
                downloaded=each.is_downloaded,
                size_bytes=each.size_bytes,
                download_bytes=each.info.download_bytes,
                usable=each.usable,
                reason=each.reason,
            )
            for each in request.app[SERVICE].models()
        )
    )
    return json_response(body)


async def _add_rate_limit(request: web.Request, response: web.StreamResponse) -> None:
    """Add the fields of draft-ietf-httpapi-ratelimit-headers to responses of `/api/stemify` and `/api/limits`."""
    access = request.app[ACCESS]
    is_known = request.path in ("/api/stemify", "/api/limits") and response.status < 500
    if not is_known or (access.wants_token and not access.has_token(request)):
        return
    with suppress(StemifyError):  # the response itself is ready
        if (allowance := await request.app[SERVICE].allowance(access.owner(request))) is not None:
            wait = f";t={math.ceil(allowance.wait_s)}" if allowance.wait_s else ""
            response.headers["RateLimit-Policy"] = f'"jobs";q={allowance.per_hour};w=3600'
            response.headers["RateLimit"] = f'"jobs";r={allowance.left}{wait}'


async def limits(request: web.Request) -> web.Response:
    access, settings = request.app[ACCESS], request.app[SETTINGS].limits
    access.require_token(request)
    allowance = await request.app[SERVICE].allowance(access.owner(request))
    body = LimitsResponse(
        input_bytes=settings.input_bytes,
        input_duration_s=settings.input_duration_s,
        jobs_per_hour=None if allowance is None else allowance.per_hour,
        jobs_left=None if allowance is None else allowance.left,
        retry_after_s=0 if allowance is None else math.ceil(allowance.wait_s),
    )
    return json_response(body)
