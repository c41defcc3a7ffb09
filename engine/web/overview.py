"""`/api/models` and `/api/limits`: what this server can do, and what the caller may do."""

from __future__ import annotations

import math

from aiohttp import web

from engine.jobs.entity import Entity
from engine.jobs.estimates import relative_cost
from engine.jobs.options import stems_of
from engine.web.keys import ACCESS, SERVICE, SETTINGS
from engine.web.schemas import json_response

_FRESH = {"Cache-Control": "no-store"}


class Model(Entity):
    """A model and its cost: the time for a song relative to htdemucs."""

    name: str
    description: str
    stems: tuple[str, ...]
    relative_cost: float
    downloaded: bool
    size_bytes: int | None = None
    """Of the downloaded weights."""
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


async def models(request: web.Request) -> web.Response:
    request.app[ACCESS].require_token(request)
    body = ModelsResponse(
        models=tuple(
            Model(
                name=each.name,
                description=each.description,
                stems=stems_of(each.name),
                relative_cost=relative_cost(each.name),
                downloaded=each.is_downloaded,
                size_bytes=each.size_bytes,
                usable=each.usable,
                reason=each.reason,
            )
            for each in request.app[SERVICE].models()
        )
    )
    return json_response(body, headers=_FRESH)


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
    return json_response(body, headers=_FRESH)
