"""`/healthz`: the process responds. `/readyz`: jobs can run. `/metrics`: numbers for Prometheus."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from engine.errors import StemifyError
from engine.jobs.entity import Entity
from engine.service.service import ServiceSnapshot
from engine.web.keys import ACCESS, METRICS, SERVICE
from engine.web.metrics import CONTENT_TYPE
from engine.web.schemas import json_response


class Health(Entity):
    status: str


class Check(Entity):
    ok: bool
    detail: str


class Readiness(Entity):
    ready: bool
    checks: dict[str, Check]
    """store, worker and model; cluster while it has a problem"""
    versions: dict[str, str]
    """stemify and yt-dlp; empty if the request lacks a required token"""


def add_routes(app: web.Application) -> None:
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)


async def healthz(request: web.Request) -> web.Response:
    return json_response(Health(status="ok"))


async def readyz(request: web.Request) -> web.Response:
    """Report readiness. Details and versions need access to the API."""
    access = request.app[ACCESS]
    in_detail = access.has_token(request) or not access.wants_token
    try:
        checks = _checks(await request.app[SERVICE].snapshot())
    except StemifyError as error:
        checks = {"store": Check(ok=False, detail=error.message)}
    if not in_detail:
        checks = {name: Check(ok=check.ok, detail="ok" if check.ok else "not ready") for name, check in checks.items()}
    ready = all(check.ok for check in checks.values())
    versions = {name: _version(name) for name in ("stemify", "yt-dlp")} if in_detail else {}
    body = Readiness(ready=ready, checks=checks, versions=versions)
    return json_response(body, status=200 if ready else 503)


def _checks(snapshot: ServiceSnapshot) -> dict[str, Check]:
    workers = [worker.device for worker in snapshot.workers if worker.ready]
    models = snapshot.usable_models
    found = {
        "store": Check(ok=True, detail=f"{sum(snapshot.jobs.values())} jobs"),
        "worker": Check(ok=bool(workers), detail=", ".join(workers) or "no worker is running"),
        "model": Check(ok=bool(models), detail=", ".join(models) or "no model can be loaded"),
    }
    if snapshot.cluster_problem is not None:  # jobs can run while any worker is ready
        found["cluster"] = Check(ok=bool(workers), detail=snapshot.cluster_problem)
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


async def metrics(request: web.Request) -> web.Response:
    request.app[ACCESS].require_token(request)
    text = request.app[METRICS].text(await request.app[SERVICE].snapshot())
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})
