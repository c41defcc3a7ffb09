"""Access to the stage of a voice channel: by its link only, and to nothing else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from engine.service.stages import NowPlaying
from engine.web.keys import STAGES
from tests.fixtures.web_backend import TOKEN, WebServer, open_web_server

PATHS = ("", "/clock.json", "/song.json", "/events")


def open_stage(server: WebServer, job_id: str) -> str:
    """Open a stage that plays the job; return the query of its link."""
    now = NowPlaying(
        job_id=job_id, title="A private song", next_title=None, stems=("vocals",), muted=frozenset(), duration_s=2.0,
        position_s=0.0, is_paused=True, key=0, tempo=1.0, loop_s=None,
    )  # fmt: skip
    server.app[STAGES].open("hall", lambda: now)
    return urlsplit(server.app[STAGES].url("hall")).query


async def test_stage_needs_its_own_link(tmp_path: Path) -> None:
    async with open_web_server(tmp_path) as server:
        job_id = await server.job(done=True)
        query = open_stage(server, job_id)
        old = urlsplit(server.links.stage("hall", server.clock() - timedelta(days=1))).query
        of_page = urlsplit(server.links.page(job_id, server.clock() + timedelta(days=1))).query
        for path in PATHS:
            for wrong, status in (("", 403), (f"{query}x", 403), (of_page, 403), (old, 410)):
                async with server.client.get(f"/stage/hall{path}?{wrong}") as response:
                    assert response.status == status, (path, wrong)
        async with server.client.get(f"/stage/other/song.json?{query}") as response:
            assert response.status == 403


async def test_stage_gives_no_access_to_the_job(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, api_tokens=[TOKEN]) as server:
        link, headers = {"youtubeUrl": "https://youtu.be/dQw4w9WgXcQ"}, {"Authorization": f"Bearer {TOKEN}"}
        async with server.client.post("/api/stemify", json=link, headers=headers) as response:
            job_id = str((await response.json())["jobId"])
        await server.service.complete(job_id)
        query = open_stage(server, job_id)
        async with server.client.get(f"/stage/hall/song.json?{query}") as response:
            assert response.status == 200
            assert job_id not in await response.text()
        async with server.client.get(f"/stage/hall/events?{query}") as response:
            lines = [await response.content.readline() for _ in range(3)]
            assert b"A private song" in lines[2] and job_id.encode() not in lines[2]
        async with server.client.get(f"/jobs/{job_id}/player.json?{query}") as response:
            assert response.status == 401


async def test_ended_stage_is_not_found(tmp_path: Path) -> None:
    async with open_web_server(tmp_path) as server:
        query = open_stage(server, await server.job(done=True))
        async with server.client.get(f"/stage/hall/events?{query}") as response:
            server.app[STAGES].close("hall")
            assert b"event: over" in await response.read()
        for path in ("", "/song.json", "/events"):
            async with server.client.get(f"/stage/hall{path}?{query}") as response:
                assert response.status == 404
