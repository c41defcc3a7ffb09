"""`/stage/{id}`: a page that shows what a voice channel plays, in step with it. All addresses need its signed link.

Each event says what was heard at which time of this server (`clock.json`). The page computes the position from it, so
another event is sent only when the song does not simply play on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import replace
from typing import Any

from aiohttp import web

from engine.errors import NotFound, StemifyError
from engine.jobs.entity import Entity
from engine.jobs.job import Job
from engine.service.service import StemService
from engine.service.stages import NowPlaying
from engine.web.errors import status_of
from engine.web.event_stream import KEEP_ALIVE_S, EventStream, respond
from engine.web.files import check_link
from engine.web.keys import CLOSING, SERVICE, STAGES
from engine.web.schemas import json_response, to_json
from engine.web.static_files import static_file

_LOOK_EVERY_S = 0.05
_TOLERANCE_S = 0.04  # two frames
_RESEND_S = 5.0


class StageClock(Entity):
    now_s: float


class StageEvent(Entity):
    """What is heard at `at_s` of the server's clock. Positions are in the song at its own tempo."""

    at_s: float
    song: str  # another one with each song
    title: str
    next_title: str | None
    stems: tuple[str, ...]
    muted: tuple[str, ...]
    duration_s: float
    position_s: float
    is_paused: bool
    key: int
    tempo: float
    loop_s: tuple[float, float] | None


class StageSong(Entity):
    """What the page draws of a song; parts that were not found are null."""

    song: str
    key: str | None
    peaks: dict[str, Any] | None
    beats: dict[str, Any] | None
    chords: list[dict[str, Any]] | None


def add_routes(app: web.Application) -> None:
    app.router.add_get("/stage/{stage_id}", page)
    app.router.add_get("/stage/{stage_id}/clock.json", clock)
    app.router.add_get("/stage/{stage_id}/song.json", song)
    app.router.add_get("/stage/{stage_id}/events", events)


async def page(request: web.Request) -> web.Response:
    """Send the page, with an error status if the stage cannot be read; the page shows the message."""
    status = 200
    try:
        request.app[STAGES].now_playing(_stage_id(request))
    except StemifyError as error:
        status = status_of(error)
    file = static_file("stage/stage.html")
    assert file is not None
    return file.response(request, status)


async def clock(request: web.Request) -> web.Response:
    _stage_id(request)
    return json_response(StageClock(now_s=time.monotonic()))


async def song(request: web.Request) -> web.Response:
    """Return waveforms, beats and chords of the song that is played."""
    stage_id = _stage_id(request)
    now = request.app[STAGES].now_playing(stage_id)
    if now is None:
        raise NotFound("Nothing is played at the moment.")
    service = request.app[SERVICE]
    job = (await service.get(now.job_id)).job
    peaks, beats, chords = [await _content(service, job, name) for name in ("peaks", "beats", "chords")]
    music = job.result.music if job.result is not None else None
    body = StageSong(
        song=_song_id(stage_id, job.id),
        key=None if music is None else music.key,
        peaks=None if peaks is None else peaks["stems"],
        beats=beats,
        chords=None if chords is None else chords["chords"],
    )
    response = json_response(body)
    response.enable_compression()
    return response


async def _content(service: StemService, job: Job, name: str) -> Any:
    """Return the content of a JSON file of a result, or None."""
    try:
        async with service.open_file(job, name) as path:
            return json.loads(await asyncio.to_thread(path.read_bytes))
    except (NotFound, FileNotFoundError):
        return None


async def events(request: web.Request) -> web.StreamResponse:
    """Stream what is heard. The event "over" is the last one of a session that has ended."""
    stage_id = _stage_id(request)
    request.app[STAGES].now_playing(stage_id)
    return await respond(request, lambda stream: _follow(request, stream, stage_id))


async def _follow(request: web.Request, stream: EventStream, stage_id: str) -> None:
    shown: NowPlaying | None = None
    shown_at_s = sent_at_s = time.monotonic()
    while not request.app[CLOSING].is_set():
        try:
            now = request.app[STAGES].now_playing(stage_id)
        except NotFound:
            await stream.send("{}", event="over")
            return
        at_s = time.monotonic()
        if now is None:
            if at_s - sent_at_s > request.app[KEEP_ALIVE_S]:
                await stream.keep_alive()
                sent_at_s = at_s
        elif at_s - sent_at_s > _RESEND_S or shown is None or not plays_on(shown, now, at_s - shown_at_s):
            await stream.send(to_json(_event(stage_id, now, at_s)))
            shown, shown_at_s = now, at_s
            sent_at_s = at_s
        await asyncio.sleep(_LOOK_EVERY_S)


def plays_on(shown: NowPlaying, now: NowPlaying, passed_s: float) -> bool:
    """Return whether a page can compute `now` from `shown`."""
    moved_s = 0.0 if shown.is_paused else passed_s * shown.tempo
    expected_s = min(shown.position_s + moved_s, shown.duration_s)
    is_in_step = abs(expected_s - now.position_s) <= _TOLERANCE_S
    return is_in_step and replace(now, position_s=shown.position_s) == shown


def _event(stage_id: str, now: NowPlaying, at_s: float) -> StageEvent:
    return StageEvent(
        at_s=at_s,
        song=_song_id(stage_id, now.job_id),
        title=now.title,
        next_title=now.next_title,
        stems=now.stems,
        muted=tuple(sorted(now.muted)),
        duration_s=now.duration_s,
        position_s=now.position_s,
        is_paused=now.is_paused,
        key=now.key,
        tempo=now.tempo,
        loop_s=now.loop_s,
    )


def _song_id(stage_id: str, job_id: str) -> str:
    """Return an id of the song that does not give access to its job, as the job's own would."""
    return hashlib.sha256(f"{stage_id}\0{job_id}".encode()).hexdigest()[:16]


def _stage_id(request: web.Request) -> str:
    """Return the id in the path if the request has its link. Raises `LinkInvalid`, `LinkExpired`."""
    stage_id = request.match_info["stage_id"]
    check_link(request, "stage", stage_id)
    return stage_id
