"""The event stream: state, changes, end and disconnects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.jobs.job import Stage
from tests.fixtures.web_backend import WebServer, open_web_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WebServer]:
    async with open_web_server(tmp_path, keep_alive_s=0.05) as server:
        yield server


async def messages(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    """Yield the fields of each message, comments under ""."""
    text = b""
    async for line in response.content:
        text += line
        if line == b"\n":
            fields = (each.partition(":") for each in text.decode().strip().split("\n"))
            yield {name: value.strip() for name, _, value in fields}
            text = b""


async def states(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for message in messages(response):
        if "data" in message:
            yield {**json.loads(message["data"]), "_id": message.get("id"), "_event": message.get("event")}


async def nobody_watches(server: WebServer) -> None:
    async with asyncio.timeout(60):
        while server.service.watching:
            await asyncio.sleep(0.01)


async def test_event_stream_sends_state_changes_and_end(server: WebServer) -> None:
    job_id = await server.job()
    async with asyncio.timeout(60), server.client.get(f"/api/jobs/{job_id}/events") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        coming = states(response)
        first = await anext(coming)
        assert (first["jobId"], first["status"], first["queuePlace"], first["etaS"]) == (job_id, "pending", 1, 40.0)
        await server.service.run(job_id, 10, Stage.DECODING)
        assert ((second := await anext(coming))["stage"], second["progress"]) == ("decoding", 10)
        await server.service.run(job_id, 60)
        assert (await anext(coming))["progress"] == 60
        await server.service.complete(job_id)
        last = await anext(coming)
        assert (last["status"], last["progress"], last["_id"]) == ("completed", 100, "over")
        assert last["result"]["stems"]["vocals"]["cdnUrl"].startswith("http://127.0.0.1:8080/files/jobs/")
        assert [more async for more in coming] == []
    await nobody_watches(server)


async def test_finished_job_sends_one_event(server: WebServer) -> None:
    job_id = await server.job(done=True)
    async with asyncio.timeout(60), server.client.get(f"/api/jobs/{job_id}/events") as response:
        assert [state["status"] async for state in states(response)] == ["completed"]
    async with server.client.get(f"/api/jobs/{job_id}/events", headers={"Last-Event-ID": "over"}) as response:
        assert (response.status, await response.read()) == (204, b"")


async def test_comments_keep_idle_stream_open(server: WebServer) -> None:
    job_id = await server.job()
    async with asyncio.timeout(60), server.client.get(f"/api/jobs/{job_id}/events") as response:
        coming = messages(response)
        assert await anext(coming) == {"retry": "3000"}
        assert "data" in await anext(coming)
        assert [await anext(coming) for _ in range(3)] == [{"": "still here"}] * 3


async def test_every_watcher_gets_the_last_event(server: WebServer) -> None:
    job_id = await server.job()

    async def watch() -> list[str]:
        async with server.client.get(f"/api/jobs/{job_id}/events") as response:
            return [state["status"] async for state in states(response)]

    async with asyncio.timeout(60):
        watching = [asyncio.create_task(watch()) for _ in range(40)]
        while server.service.watching < 40:
            await asyncio.sleep(0.01)
        await server.service.complete(job_id)
        assert await asyncio.gather(*watching) == [["pending", "completed"]] * 40
    await nobody_watches(server)


async def test_disconnect_ends_the_watch(server: WebServer) -> None:
    job_id = await server.job()
    for _ in range(5):
        response = await server.client.get(f"/api/jobs/{job_id}/events")
        await anext(states(response))
        assert server.service.watching == 1
        response.close()
        await nobody_watches(server)


async def test_deleted_job_ends_the_stream(server: WebServer) -> None:
    job_id = await server.job()
    async with asyncio.timeout(60), server.client.get(f"/api/jobs/{job_id}/events") as response:
        coming = states(response)
        await anext(coming)
        await server.service.delete(job_id, by="ip:127.0.0.1")
        last = await anext(coming)
        assert (last["jobId"], last["_event"], last["_id"]) == (job_id, "gone", "over")
        assert [more async for more in coming] == []


async def test_open_stream_does_not_delay_shutdown(server: WebServer) -> None:
    job_id = await server.job()
    async with server.client.get(f"/api/jobs/{job_id}/events") as response:
        coming = states(response)
        await anext(coming)
        server.runner._shutdown_timeout = 1000  # it would wait so long for an open request
        async with asyncio.timeout(60):
            await server.runner.cleanup()
        assert [more async for more in coming] == []
    assert server.service.watching == 0


async def test_events_of_unknown_job_are_404(server: WebServer) -> None:
    async with server.client.get("/api/jobs/0199aa00-0000-7000-8000-000000000000/events") as response:
        assert (response.status, response.content_type) == (404, "application/json")


async def test_unexpected_error_aborts_the_stream(server: WebServer) -> None:
    job_id = await server.job()
    async with asyncio.timeout(60), server.client.get(f"/api/jobs/{job_id}/events") as response:
        coming = states(response)
        await anext(coming)
        server.service.raises = RuntimeError("secret")
        await server.service.run(job_id, 10)
        with pytest.raises(aiohttp.ClientPayloadError):
            await anext(coming)
    await nobody_watches(server)


async def test_unread_event_streams_are_closed(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, event_streams_per_address=2) as server:
        job_id = await server.job()
        url = f"/api/jobs/{job_id}/events"
        async with server.client.get(url) as first, server.client.get(url) as second:
            assert (first.status, second.status) == (200, 200)
            async with server.client.get(url) as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (429, "60")
                assert (await refused.json())["error"]["code"] == "too_many_streams"
        await nobody_watches(server)
        async with server.client.get(url) as again:
            assert again.status == 200, "a stream that has ended makes room"
