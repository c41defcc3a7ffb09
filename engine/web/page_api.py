"""JSON for the web pages: a job with title and links, its peaks, keep and retry, and the upload options."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from engine.errors import NotFound
from engine.jobs.entity import Entity
from engine.jobs.job import InputType, JobStatus, JobView
from engine.jobs.models import describe_default
from engine.jobs.options import Quality, StemSeparationOptions
from engine.service.sample import OWNER as SAMPLE_OWNER
from engine.service.service import VersionRequest
from engine.service.snapshot import ready_models
from engine.web.api import query_number, readable_job
from engine.web.errors import BadRequest
from engine.web.keys import ACCESS, SAMPLE, SERVICE, SETTINGS
from engine.web.schemas import JobEvent, job_event, json_response

_EXAMPLE_S = 180  # a song


class PlayerJob(JobEvent):
    """A job as shown on its page.

    URLs have no scheme and host: a page opened at another name than the public one may only request that name.
    """

    title: str
    artist: str | None = None
    options: StemSeparationOptions
    source_url: str | None = None  # of the video, if any
    keep: bool
    cancelled: bool
    error_code: str | None = None
    may_change: bool  # cancel, keep, delete, retry
    may_repeat: bool  # the song is kept, so that it can be separated again
    is_sample: bool
    page_query: str  # "e=…&s=…": signed access to this job's page, state and events
    files: dict[str, str]  # stem, "zip", "beats" or "chords" → address


class ModelOption(Entity):
    name: str
    description: str
    traits: tuple[str, ...]
    licence_source: str
    usable: bool
    reason: str | None = None
    is_downloaded: bool
    download_bytes: int | None = None
    expected_s: dict[Quality, int]  # for a song of the requested length


class UploadOptions(Entity):
    models: tuple[ModelOption, ...]
    sample: bool  # whether /sample leads to the sample song
    automatic: str  # which model is used where none is chosen
    defaults: dict[Quality, str]  # that model, by quality
    karaoke_defaults: dict[Quality, str]
    links: bool  # whether YouTube links are accepted
    wants_token: bool
    max_bytes: int
    max_duration_s: float


class VersionProgress(Entity):
    progress: int | None  # percent


async def upload_options(request: web.Request) -> web.Response:
    """Return the choices on a page. `?seconds=`: the length of the song that the expected times are for."""
    settings = request.app[SETTINGS]
    models = request.app[SERVICE].models()
    ready = ready_models(models)
    sample = request.app[SAMPLE]
    song_s = query_number(request, "seconds", 86_400, least=1, default=_EXAMPLE_S)
    body = UploadOptions(
        models=tuple(
            [
                ModelOption(
                    name=each.name,
                    description=each.info.description,
                    traits=tuple(each.traits),
                    licence_source=each.info.licence_source,
                    usable=each.usable,
                    reason=each.reason,
                    is_downloaded=each.is_downloaded,
                    download_bytes=each.info.download_bytes,
                    expected_s=await _expected_s(request, each.name, song_s),
                )
                for each in models
            ]
        ),
        sample=sample is not None and sample.is_offered,
        automatic=describe_default(ready),
        defaults=_default_models(ready, karaoke=False),
        karaoke_defaults=_default_models(ready, karaoke=True),
        links=settings.youtube.enabled,
        wants_token=request.app[ACCESS].wants_token,
        max_bytes=settings.limits.input_bytes,
        max_duration_s=settings.limits.input_duration_s,
    )
    return json_response(body)


def _default_models(ready: Collection[str], *, karaoke: bool) -> dict[Quality, str]:
    choose = StemSeparationOptions.from_user
    return {each: choose(ready=ready, quality=each, remove_vocals=karaoke).model for each in Quality}


async def _expected_s(request: web.Request, model: str, song_s: float) -> dict[Quality, int]:
    options = {quality: StemSeparationOptions(model=model, quality=quality) for quality in Quality}
    service = request.app[SERVICE]
    return {quality: await service.estimated_s(each, song_s) for quality, each in options.items()}


async def show(request: web.Request) -> web.Response:
    return await _player_job(request, await readable_job(request))


async def peaks(request: web.Request) -> web.Response:
    """Return the stems' waveforms, {"duration_s": …, "stems": {name: {"bins", "low", "high"}}}."""
    job = (await readable_job(request)).job
    async with request.app[SERVICE].open_file(job, "peaks") as path:
        try:
            text = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            raise NotFound("This file was deleted or has expired.") from None
    response = web.Response(
        body=text, content_type="application/json", headers={"Cache-Control": "private, max-age=3600"}
    )
    response.enable_compression()
    return response


async def version_progress(request: web.Request) -> web.Response:
    """Return {"progress": percent} of a version (`?key=…&tempo=…&preview=…`) that is being made, or null."""
    job = (await readable_job(request)).job
    try:
        values: dict[str, Any] = {name: float(request.query[name]) for name in ("key", "tempo")}
    except (KeyError, ValueError):
        raise BadRequest("Send key and tempo as numbers.") from None
    values["preview"] = request.query.get("preview") == "true"
    share = await request.app[SERVICE].version_progress(job.id, VersionRequest.from_user(values))
    return json_response(VersionProgress(progress=None if share is None else round(100 * share)))


async def keep(request: web.Request) -> web.Response:
    """Keep the stems of a completed job until they are deleted."""
    view = await _changeable(request)
    return await _player_job(request, await request.app[SERVICE].keep(view.job.id, by=view.job.owner))


async def retry(request: web.Request) -> web.Response:
    """Create a new job from a failed one; `?model=` selects another model."""
    view = await _changeable(request)
    model = request.query.get("model")
    return await _player_job(request, await request.app[SERVICE].retry(view.job.id, by=view.job.owner, model=model))


async def _changeable(request: web.Request) -> JobView:
    access = request.app[ACCESS]
    access.require_token(request)
    view = await readable_job(request)
    access.check_may_change(request, view.job)
    return view


async def _player_job(request: web.Request, view: JobView) -> web.Response:
    job = view.job
    fields: dict[str, Any] = dict(job_event(view))
    body = PlayerJob(
        **fields,
        title=job.title,
        artist=job.artist,
        options=job.options,
        source_url=job.input_source if job.input_type is InputType.YOUTUBE_URL else None,
        keep=job.keep,
        cancelled=job.status is JobStatus.FAILED and job.was_cancelled,
        error_code=job.error_code,
        may_change=request.app[ACCESS].may_change(request, job),
        may_repeat=job.owner != SAMPLE_OWNER and await request.app[SERVICE].has_song(job),
        is_sample=job.owner == SAMPLE_OWNER,
        page_query=urlsplit(view.page_url or "").query,
        files={link.name: _local_url(link.url) for link in (*view.links, *view.music_links)},
    )
    text = body.model_dump_json(by_alias=True)
    return web.Response(text=text, content_type="application/json")


def _local_url(url: str) -> str:
    """Return the URL as a path that sends the bytes from this server.

    The player fetches ranges, which it may do from its own origin only.
    """
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query.removesuffix('&via=cdn')}&via=here"


routes = [
    web.get("/choices.json", upload_options),
    web.get("/jobs/{job_id}/player.json", show),
    web.get("/jobs/{job_id}/peaks.json", peaks),
    web.get("/jobs/{job_id}/version-progress.json", version_progress),
    web.post("/jobs/{job_id}/keep", keep),
    web.post("/jobs/{job_id}/retry", retry),
]
