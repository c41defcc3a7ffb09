"""The page of a voice channel, from the link in the control message to the end of the session."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.fixtures.voice_hall import VoiceHall

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]
APART_S = 0.1


class StageReader:
    """Reads the events of a stage, and computes the position as the page does."""

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}
        self.is_over = False

    async def read(self, response: aiohttp.ClientResponse) -> None:
        async for line in response.content:
            if line.startswith(b"event: over"):
                self.is_over = True
            elif line.startswith(b'data: {"atS"'):
                self.last = json.loads(line.removeprefix(b"data: "))

    @property
    def position_s(self) -> float:
        """Return what the channel should hear now; this machine has one monotonic clock."""
        passed_s = 0.0 if self.last["isPaused"] else (time.monotonic() - self.last["atS"]) * self.last["tempo"]
        return float(self.last["positionS"]) + passed_s


@asynccontextmanager
async def followed(hall: VoiceHall) -> AsyncIterator[StageReader]:
    link = urlsplit(hall.control().button("Stage")["url"])
    assert link.netloc == "stems.example"
    reader = StageReader()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{hall.port}") as client:
        async with client.get(f"{link.path}?{link.query}") as page:
            assert page.status == 200 and page.content_type == "text/html"
        async with client.get(f"{link.path}/events?{link.query}") as response:
            assert response.status == 200
            reading = asyncio.create_task(reader.read(response))
            try:
                yield reader
            finally:
                reading.cancel()


async def test_stage_follows_the_sound_of_the_channel(hall: VoiceHall) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    async with followed(hall) as reader:
        await hall.until(lambda: reader.last, "the first event")
        assert set(reader.last["stems"]) == {"drums", "vocals"} and reader.last["title"] == "Blue Hour"
        for _ in range(20):  # a late packet at the first look would spoil all later ones
            first_s, frames = reader.position_s, hall.frames_of_sound()
            await hall.heard(50)
            heard_s = first_s + 0.02 * (hall.frames_of_sound() - frames)
            if abs(reader.position_s - heard_s) < APART_S:
                break
        else:
            pytest.fail("the page was never where the packets are")
        await hall.ann.press(hall.control(), "Karaoke")
        await hall.until(lambda: reader.last["muted"] == ["vocals"], "the muted stem")
        await hall.ann.press(hall.control(), "⏯")
        await hall.until(lambda: reader.last["isPaused"], "the pause")
        await hall.ann.press(hall.control(), "+10 s")
        await hall.until(lambda: reader.position_s > 10, "the jump")
        await hall.play(await hall.song())
        await hall.until(lambda: reader.last["nextTitle"] == "Blue Hour", "the next title")
        song = reader.last["song"]
        await hall.ann.press(hall.control(), "Next song")
        await hall.until(lambda: reader.last["song"] != song and reader.position_s < 10, "the next song")
        await hall.leave()
        await hall.until(lambda: reader.is_over, "the end")


async def test_stage_keeps_its_address_over_a_restart(hall: VoiceHall) -> None:
    await hall.play(await hall.song())
    await hall.heard()
    stage = urlsplit(hall.control().button("Stage")["url"]).path
    await hall.bot.kill()
    await hall.bot.start()
    await hall.heard()
    await hall.shows("▶ 0:")
    async with followed(hall) as reader:
        await hall.until(lambda: reader.last, "the first event")
    assert urlsplit(hall.control().button("Stage")["url"]).path == stage
