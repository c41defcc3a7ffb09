"""Health, readiness and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.database.errors import StoreBusy
from engine.service.service import ServiceSnapshot
from tests.fixtures.web_backend import TOKEN, WebServer, open_web_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WebServer]:
    async with open_web_server(tmp_path) as server:
        yield server


async def readiness(server: WebServer) -> tuple[int, dict[str, Any]]:
    async with server.client.get("/readyz") as response:
        return response.status, await response.json()


async def test_healthy_server_is_ready(server: WebServer) -> None:
    async with server.client.get("/healthz") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})
    status, body = await readiness(server)
    assert (status, body["ready"]) == (200, True)
    assert {name: check["ok"] for name, check in body["checks"].items()} == {
        "store": True,
        "worker": True,
        "model": True,
    }
    assert body["versions"] == {"stemify": version("stemify"), "yt-dlp": version("yt-dlp")}


async def test_missing_store_worker_or_model_is_not_ready(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    good = await server.service.snapshot()
    down = replace(good, workers=tuple(replace(worker, ready=False) for worker in good.workers))
    for snapshot, missing in [(down, "worker"), (replace(good, usable_models=()), "model")]:

        async def snapshot_now(snapshot: ServiceSnapshot = snapshot) -> ServiceSnapshot:
            return snapshot

        monkeypatch.setattr(server.service, "snapshot", snapshot_now)
        status, body = await readiness(server)
        assert (status, body["ready"], body["checks"][missing]["ok"]) == (503, False, False)
    monkeypatch.undo()
    server.service.raises = StoreBusy()
    status, body = await readiness(server)
    assert (status, body["checks"]["store"]) == (503, {"ok": False, "detail": StoreBusy().message})


async def test_api_description_is_cached(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with server.client.get("/api/openapi.json") as response:
        first = await response.json()
    monkeypatch.delattr("engine.web.openapi.openapi")
    async with server.client.get("/api/openapi.json") as response:
        assert (response.status, await response.json()) == (200, first)


async def test_readiness_without_token_has_no_details(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_web_server(tmp_path, api_tokens=[TOKEN]) as server:
        problem = "The Ray head at 10.0.0.1:6379 does not answer."
        snapshot = replace(await server.service.snapshot(), cluster_problem=problem)

        async def snapshot_now() -> ServiceSnapshot:
            return snapshot

        monkeypatch.setattr(server.service, "snapshot", snapshot_now)
        status, body = await readiness(server)
        assert (status, body["ready"], body["versions"]) == (200, True, {})
        assert set(body["checks"]) == {"store", "worker", "model", "cluster"}
        assert {check["detail"] for check in body["checks"].values()} == {"ok"}
        async with server.client.get("/readyz", headers={"Authorization": f"Bearer {TOKEN}"}) as response:
            body = await response.json()
        assert problem in str(body) and body["versions"] and body["checks"]["model"]["detail"] == "mini"


async def test_metrics_are_in_prometheus_format(server: WebServer) -> None:
    await server.job()
    await server.job(done=True)
    async with server.client.get("/nothing/at/all") as response:
        assert response.status == 404
    async with server.client.get("/metrics") as response:
        assert response.status == 200
        families = list(text_string_to_metric_families(await response.text()))
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
    }
    assert values["stemify_jobs", "completed"] == 1
    assert values["stemify_jobs", "failed"] == 0
    assert values["stemify_queue_depth",] == 1
    assert values["stemify_stage_seconds_total", "separating"] == 12.5
    assert values["stemify_real_time_factor",] == 0.25
    assert values["stemify_worker_up", "cpu"] == 1
    assert values["stemify_worker_resident_bytes", "cpu"] == 300_000_000
    assert values["stemify_http_requests_total", "/api/stemify", "202", "POST"] == 2
    assert values["stemify_http_requests_total", "404", "GET", "unmatched"] == 1
    assert values["process_resident_memory_bytes",] > 0


async def test_servers_count_requests_separately(server: WebServer, tmp_path: Path) -> None:
    await server.job()
    async with open_web_server(tmp_path / "second") as second, second.client.get("/metrics") as response:
        assert "/api/stemify" not in await response.text()
