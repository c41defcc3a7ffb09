"""The data transfer objects of the API."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from aiohttp import ETag, web
from aiohttp.helpers import ETAG_ANY
from pydantic import AwareDatetime, BaseModel, Field

from engine.jobs.entity import Entity
from engine.jobs.job import JobStatus, JobView, Stage
from engine.jobs.options import StemSeparationOptions
from engine.jobs.results import Candidate, ComparisonResult, JobResult, Music, StemContainer, StemFiles, StemInfo


class StemifyRequest(Entity):
    """A request with a link. A file is sent as multipart with the same `options`."""

    youtube_url: str | None = None
    options: StemSeparationOptions | None = None


class StemifyResponse(Entity):
    job_id: str
    status: JobStatus = JobStatus.PENDING
    estimated_duration: int
    message: str


class StemResponse(StemInfo):
    path: str = Field(default="", exclude=True)


class StemsResponse(StemFiles):
    vocals: StemResponse | None = None
    drums: StemResponse | None = None
    bass: StemResponse | None = None
    other: StemResponse | None = None
    guitar: StemResponse | None = None
    piano: StemResponse | None = None
    instrumental: StemResponse | None = None


class StemFileResponse(StemContainer):
    path: str = Field(default="", exclude=True)


class MusicResponse(Music):
    beats_path: str | None = Field(default=None, exclude=True)
    chords_path: str | None = Field(default=None, exclude=True)


class CandidateResponse(Candidate):
    """One model of a comparison, without its name."""

    model: str = Field(default="", exclude=True)
    model_version: str | None = Field(default=None, exclude=True)
    stems: StemsResponse


class ComparisonResponse(ComparisonResult):
    candidates: tuple[CandidateResponse, ...]


class ResultResponse(JobResult):
    """A result with signed links in place of storage keys, which no client can use."""

    output_dir: str = Field(default="", exclude=True)
    waveform_path: str | None = Field(default=None, exclude=True)
    peaks_path: str | None = Field(default=None, exclude=True)
    stems: StemsResponse
    stem_file: StemFileResponse | None = None
    music: MusicResponse | None = None
    comparison: ComparisonResponse | None = None
    zip_url: str | None = None  # of all stems in one file
    waveform_url: str | None = None  # of a picture of the stems


class JobStatusResponse(Entity):
    job_id: str
    status: JobStatus
    progress: int
    result: ResultResponse | None = None
    error: str | None = None
    created_at: AwareDatetime
    updated_at: AwareDatetime


class ListedJob(Entity):
    """A job of the caller's list; its result is at `getJob`."""

    job_id: str
    title: str
    artist: str | None = None
    options: StemSeparationOptions
    status: JobStatus
    progress: int
    error: str | None = None
    page_url: str | None = None
    created_at: AwareDatetime
    updated_at: AwareDatetime


class JobListResponse(Entity):
    """One page of the caller's jobs, newest first."""

    jobs: tuple[ListedJob, ...]
    next: str | None = None  # the address of the next page


class JobEvent(JobStatusResponse):
    """The state of a job in the event stream, with what a progress display needs."""

    stage: Stage | None = None
    queue_place: int | None = None  # 1 is next; only while pending
    eta_s: float | None = None  # seconds until completion, including the queue; None if unknown
    no_worker: bool = False  # no worker is available; the job continues when one is
    links_expire_at: AwareDatetime | None = None


def job_status(view: JobView) -> JobStatusResponse:
    return JobStatusResponse.model_validate(_fields(view))


def listed_job(view: JobView) -> ListedJob:
    job = view.job
    return ListedJob(
        job_id=job.id,
        title=job.title,
        artist=job.artist,
        options=job.options,
        status=job.status,
        progress=job.progress,
        error=job.error,
        page_url=view.page_url,
        created_at=job.created_at,
        updated_at=job.updated_at,
    )


def job_event(view: JobView) -> JobEvent:
    return JobEvent(
        **_fields(view),
        stage=view.job.stage,
        queue_place=view.queue_place,
        no_worker=view.no_worker,
        eta_s=None if view.eta_s is None else round(view.eta_s, 1),
        links_expire_at=view.links_expire_at,
    )


def _fields(view: JobView) -> dict[str, Any]:
    job = view.job
    return {
        "job_id": job.id,
        "status": job.status,
        "progress": job.progress,
        "result": _with_links(view),
        "error": job.error,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
    }


def _with_links(view: JobView) -> ResultResponse | None:
    """Return the result with fresh signed links."""
    result = view.job.result
    if result is None:
        return None
    urls = {link.name: link.url for link in view.links}
    music_urls = {link.name: link.url for link in view.music_links}
    stems = _stems(result.stems, urls)
    stem_file, music = result.stem_file, result.music
    links: dict[str, Any] = {
        "stems": stems,
        "stem_file": stem_file and StemFileResponse(**dict(stem_file) | {"cdn_url": urls.get("stem")}),
        "music": music and MusicResponse(**dict(music) | music_urls),
        "comparison": result.comparison and _comparison(result.comparison, urls),
        "cdn_urls": tuple(url for name, url in urls.items() if name not in ("stem", "zip")),
        "zip_url": urls.get("zip"),
        "waveform_url": view.picture_url,
    }
    return ResultResponse(**dict(result) | links)


def _stems(stems: StemFiles, urls: Mapping[str, str], prefix: str = "") -> StemsResponse:
    with_links = {name: dict(info) | {"cdn_url": urls.get(prefix + name)} for name, info in stems}
    return StemsResponse(**{name: StemResponse(**values) for name, values in with_links.items()})


def _comparison(comparison: ComparisonResult, urls: Mapping[str, str]) -> ComparisonResponse:
    candidates = tuple(
        CandidateResponse(label=each.label, stems=_stems(each.stems, urls, f"{each.label} "))
        for each in comparison.candidates
    )
    return ComparisonResponse(**{**dict(comparison), "candidates": candidates})


def to_json(model: BaseModel) -> str:
    """Serialize to JSON in camelCase.

    A missing `result` or `error` is omitted; nulls inside a result are kept.
    """
    absent = {name for name in ("result", "error") if getattr(model, name, ...) is None}
    return model.model_dump_json(by_alias=True, exclude=absent)


def json_response(model: BaseModel, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=to_json(model), content_type="application/json", headers=headers)


def with_etag(request: web.Request, model: BaseModel) -> web.Response:
    """Return the model as JSON, or 304 if the client has it."""
    text = to_json(model)
    etag = ETag(hashlib.sha256(text.encode()).hexdigest()[:32])
    known = request.if_none_match or ()
    if any(each.value in (etag.value, ETAG_ANY) for each in known):
        response = web.Response(status=304)
    else:
        response = web.Response(text=text, content_type="application/json")
    response.etag = etag
    return response


def about(seconds: float) -> str:
    """Format a duration for a sentence."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds" if round(seconds) != 1 else "a second"
    return f"{round(seconds / 60)} minutes"
