"""`/api/jobs/{id}/mixes` and `/api/jobs/{id}/versions`: files made from the stems of a completed job."""

from __future__ import annotations

from aiohttp import web

from engine.service.service import MixRequest, VersionRequest
from engine.web.api import readable_job
from engine.web.body import read_json
from engine.web.errors import UnsupportedBody
from engine.web.keys import ACCESS, SERVICE
from engine.web.schemas import json_response


def add_routes(app: web.Application) -> None:
    app.router.add_post("/api/jobs/{job_id}/mixes", mix)
    app.router.add_post("/api/jobs/{job_id}/versions", version)


async def mix(request: web.Request) -> web.Response:
    """Make one file of the stems. The same request gives the same file again."""
    job = (await readable_job(request)).job
    wanted = MixRequest.from_user(await _body(request))
    made = await request.app[SERVICE].mix(job.id, wanted, by=request.app[ACCESS].owner(request))
    return json_response(made, status=201)


async def version(request: web.Request) -> web.Response:
    """Make all stems in another key and at another tempo."""
    job = (await readable_job(request)).job
    wanted = VersionRequest.from_user(await _body(request))
    made = await request.app[SERVICE].version(job.id, wanted, by=request.app[ACCESS].owner(request))
    return json_response(made, status=201)


async def _body(request: web.Request) -> dict[str, object]:
    if request.content_type != "application/json":
        raise UnsupportedBody("Send the parameters as application/json, {} for the defaults.")
    return await read_json(request)
