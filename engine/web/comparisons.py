"""`/api/jobs/{id}/compare` and `/api/jobs/{id}/choose`: models compared on an excerpt, by their sound only."""

from __future__ import annotations

from aiohttp import web

from engine.errors import InvalidState
from engine.jobs.comparison import Comparison
from engine.jobs.entity import Entity
from engine.jobs.results import ComparisonResult
from engine.web.api import accepted, readable_job, repeatable_job
from engine.web.body import read_json
from engine.web.errors import BadRequest
from engine.web.keys import SERVICE
from engine.web.schemas import json_response


class Choice(Entity):
    """The models of a comparison, for a listener who has chosen."""

    label: str
    model: str  # of that label
    models: dict[str, str]  # by label


def add_routes(app: web.Application) -> None:
    app.router.add_post("/api/jobs/{job_id}/compare", compare)
    app.router.add_post("/api/jobs/{job_id}/choose", choose)


async def compare(request: web.Request) -> web.Response:
    """Create a job that separates an excerpt of the kept song with several models."""
    job = await repeatable_job(request)
    comparison = Comparison.from_user(await read_json(request) if request.can_read_body else {})
    return accepted(await request.app[SERVICE].again(job.id, {"comparison": comparison}, by=job.owner))


async def choose(request: web.Request) -> web.Response:
    """Return the names of the models, and store nothing: the same request gives the same answer."""
    job = (await readable_job(request)).job
    if job.options.comparison is None:
        raise InvalidState("This job compares no models.")
    if job.result is None or job.result.comparison is None:
        raise InvalidState("This comparison is not completed yet. Check its status first.")
    return json_response(_choice(job.result.comparison, await read_json(request) if request.can_read_body else {}))


def _choice(comparison: ComparisonResult, values: dict[str, object]) -> Choice:
    models = comparison.models
    label = values.get("label")
    if values.keys() != {"label"} or label not in models:
        raise BadRequest(f"Send the label of a model: {', '.join(models)}.")
    return Choice(label=str(label), model=models[str(label)], models=models)
