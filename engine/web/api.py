"""`/api/stemify` and `/api/jobs`: submit, list, show, repeat, cancel or delete jobs."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from aiohttp import web

from engine.errors import NotAllowed, NotFound
from engine.jobs.job import Job, JobStatus, JobView
from engine.jobs.options import StemSeparationOptions
from engine.service.links import Kind
from engine.service.sample import OWNER as SAMPLE_OWNER
from engine.service.service import Link, Submission
from engine.service.snapshot import ready_models
from engine.text import format_date
from engine.web.body import (
    check_declared_length,
    chosen_options,
    continue_reading,
    defer_continue,
    idempotency_key,
    option_changes,
    read_json,
    uploaded,
)
from engine.web.errors import BadRequest, UnsupportedBody
from engine.web.keys import ACCESS, LINKS, NOW, SERVICE, SETTINGS
from engine.web.schemas import (
    JobListResponse,
    StemifyResponse,
    about,
    job_status,
    json_response,
    listed_job,
    with_etag,
)

MAX_LISTED = 100
MAX_OFFSET = 10_000


def add_routes(app: web.Application) -> None:
    app.router.add_post("/api/stemify", stemify, expect_handler=defer_continue)
    app.router.add_get("/api/jobs", list_jobs)
    app.router.add_get("/api/jobs/{job_id}", show)
    app.router.add_delete("/api/jobs/{job_id}", remove)
    app.router.add_post("/api/jobs/{job_id}/again", again)


async def stemify(request: web.Request) -> web.Response:
    """Create a job from a file (multipart) or a link (JSON). Refused requests do not count toward the quota."""
    request.app[ACCESS].require_token(request)
    max_file_bytes = request.app[SETTINGS].limits.input_bytes
    check_declared_length(request, max_file_bytes)
    owner, key = request.app[ACCESS].owner(request), idempotency_key(request)
    service = request.app[SERVICE]
    if request.content_type == "application/json":
        await continue_reading(request)
        link, options = _link_request(await read_json(request), ready_models(service.models()))
        submission = Submission(link, options, owner, key=key)
        view = await service.submitted(submission) if key is not None else None
        return accepted(view or await service.submit(submission))
    if request.content_type != "multipart/form-data":
        raise UnsupportedBody
    if key is not None and await service.has_request(owner, key):
        await continue_reading(request)
        upload, options = await uploaded(request, max_file_bytes=max_file_bytes, ready=ready_models(service.models()))
        if (view := await service.submitted(Submission(upload, options, owner, key=key))) is not None:
            return accepted(view)
        raise NotFound  # the job was deleted in between
    async with service.admit_upload(owner, request.content_length) as ticket:
        await continue_reading(request)
        upload, options = await uploaded(request, max_file_bytes=max_file_bytes, ready=ready_models(service.models()))
        return accepted(await service.submit(Submission(upload, options, owner, key=key), ticket))


def _link_request(body: dict[str, object], ready: Collection[str]) -> tuple[Link, StemSeparationOptions]:
    if unknown := body.keys() - {"youtubeUrl", "youtube_url", "options"}:
        raise BadRequest(f"Unknown field {sorted(unknown)[0]!r:.40}. Send youtubeUrl and options.")
    text, options = body.get("youtubeUrl", body.get("youtube_url")), body.get("options")
    if not isinstance(text, str):
        raise BadRequest("Send the link as youtubeUrl, or a file as multipart/form-data.")
    if not isinstance(options, dict | None):
        raise BadRequest("The field options must be a JSON object.")
    return Link(text), chosen_options(options, ready)


def accepted(view: JobView) -> web.Response:
    """Return the answer to a request that has created a job."""
    job = view.job
    headers = {"Location": f"/api/jobs/{job.id}"}
    if view.page_url:
        headers["Link"] = f'<{view.page_url}>; rel="alternate"; type="text/html"'
    estimated_s = 0 if job.is_over else job.estimated_duration
    body = StemifyResponse(job_id=job.id, status=job.status, estimated_duration=estimated_s, message=_message(view))
    return json_response(body, status=202, headers=headers)


def _message(view: JobView) -> str:
    job, place = view.job, view.queue_place
    if job.result is not None and job.result.separated_at is not None:
        date = format_date(job.result.separated_at)
        return f"The stems are ready: this song was separated with these options on {date}."
    if job.status is not JobStatus.PENDING:  # the request was repeated with its Idempotency-Key
        return f"This request was already accepted. Its job is {job.status}."
    position = "next in the queue" if place in (None, 1) else f"number {place} in the queue"
    return f"Job accepted. It is {position}; the stems should be ready in about {about(_wait_s(view))}."


def _wait_s(view: JobView) -> float:
    return view.job.estimated_duration if view.eta_s is None else view.eta_s


async def list_jobs(request: web.Request) -> web.Response:
    """Return one page of the jobs of the caller's address, newest first."""
    access = request.app[ACCESS]
    access.require_token(request)
    if not access.wants_token and request.app[SETTINGS].web.open:
        raise NotAllowed("A server that is open to everyone lists no jobs. Keep the ids of your jobs.")
    limit = query_number(request, "limit", MAX_LISTED, least=1, default=25)
    offset = query_number(request, "offset", MAX_OFFSET)
    views = await request.app[SERVICE].list(access.owner(request), limit=limit + 1, offset=offset)
    has_more = len(views) > limit and offset + limit <= MAX_OFFSET
    following = f"{request.path}?limit={limit}&offset={offset + limit}" if has_more else None
    return json_response(JobListResponse(jobs=tuple(map(listed_job, views[:limit])), next=following))


def query_number(request: web.Request, name: str, most: int, *, least: int = 0, default: int = 0) -> int:
    """Return a parameter of the query. Raises `BadRequest`."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and least <= int(text) <= most):
        raise BadRequest(f"The parameter {name} must be a whole number from {least} to {most}.")
    return int(text)


async def show(request: web.Request) -> web.Response:
    return with_etag(request, job_status(await readable_job(request)))


async def remove(request: web.Request) -> web.Response:
    """Cancel an unfinished job and return its state, or delete a finished one with its files."""
    access, service = request.app[ACCESS], request.app[SERVICE]
    access.require_token(request)
    job = (await service.get(job_id_of(request))).job
    access.check_may_change(request, job)
    if job.is_over:
        await service.delete(job.id, by=job.owner)
        return web.Response(status=204)
    view = await service.cancel(job.id, by=job.owner)
    return json_response(job_status(view))


async def again(request: web.Request) -> web.Response:
    """Create a new job from the kept song of another one, with the given options changed."""
    job = await repeatable_job(request)
    changes = option_changes(await read_json(request) if request.can_read_body else {})
    return accepted(await request.app[SERVICE].again(job.id, changes, by=job.owner))


async def repeatable_job(request: web.Request) -> Job:
    """Return the job in the path if the request may start jobs with its song.

    It may with the signed link of the job's page, or if it may change the job. Raises what `readable_job` raises,
    `NotAllowed`.
    """
    job = (await readable_job(request)).job
    if not _has_link(request, "page"):
        request.app[ACCESS].check_may_change(request, job)
    if job.owner == SAMPLE_OWNER:
        raise NotAllowed("The sample song cannot be separated again. Upload a song of your own.")
    return job


def job_id_of(request: web.Request) -> str:
    """Return the job id in the path, in canonical form. Raises `NotFound` if it is not a UUID."""
    try:
        return str(UUID(request.match_info["job_id"]))
    except ValueError:
        raise NotFound from None


async def readable_job(request: web.Request, *link_kinds: Kind) -> JobView:
    """Return the job in the path if the request may read it.

    It may with access to the API or with a signed link to the job (its page, or one of `link_kinds`). Raises
    `Unauthorized`, `NotFound`.
    """
    if not _has_link(request, "page", *link_kinds):
        request.app[ACCESS].require_token(request)
    return await request.app[SERVICE].get(job_id_of(request))


def _has_link(request: web.Request, *kinds: Kind) -> bool:
    job_id, links, now = job_id_of(request), request.app[LINKS], request.app[NOW]()
    return any(links.verify(kind, job_id, request.query, now) for kind in kinds)
