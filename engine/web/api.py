"""`/api/stemify` and `/api/jobs/{id}`: submit, show, cancel or delete jobs."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web

from engine.errors import NotFound
from engine.jobs.job import JobView
from engine.jobs.options import StemSeparationOptions
from engine.service.links import Kind
from engine.service.service import Link, Submission, Ticket, Upload
from engine.web.body import check_declared_length, chosen_options, continue_reading, defer_continue, read_json, uploaded
from engine.web.errors import BadRequest, UnsupportedBody
from engine.web.keys import ACCESS, LINKS, NOW, SERVICE, SETTINGS
from engine.web.schemas import StemifyResponse, about, job_status, json_response


def add_routes(app: web.Application) -> None:
    app.router.add_post("/api/stemify", stemify, expect_handler=defer_continue)
    app.router.add_get("/api/jobs/{job_id}", show, allow_head=False)
    app.router.add_delete("/api/jobs/{job_id}", remove)


async def stemify(request: web.Request) -> web.Response:
    """Create a job from a file (multipart) or a link (JSON). Refused requests do not count toward the quota."""
    request.app[ACCESS].require_token(request)
    max_file_bytes = request.app[SETTINGS].limits.input_bytes
    check_declared_length(request, max_file_bytes)
    if request.content_type == "application/json":
        await continue_reading(request)
        body = await read_json(request)
        link, options = _link_request(body)
        view = await _submit(request, link, options)
    elif request.content_type == "multipart/form-data":
        owner = request.app[ACCESS].owner(request)
        async with request.app[SERVICE].admit_upload(owner, request.content_length) as ticket:
            await continue_reading(request)
            upload, options = await uploaded(request, max_file_bytes=max_file_bytes)
            view = await _submit(request, upload, options, ticket)
    else:
        raise UnsupportedBody
    return _accepted(view)


def _link_request(body: dict[str, object]) -> tuple[Link, StemSeparationOptions]:
    if unknown := body.keys() - {"youtubeUrl", "youtube_url", "options"}:
        raise BadRequest(f"Unknown field {sorted(unknown)[0]!r:.40}. Send youtubeUrl and options.")
    text, options = body.get("youtubeUrl", body.get("youtube_url")), body.get("options")
    if not isinstance(text, str):
        raise BadRequest("Send the link as youtubeUrl, or a file as multipart/form-data.")
    if not isinstance(options, dict | None):
        raise BadRequest("The field options must be a JSON object.")
    return Link(text), chosen_options(options)


async def _submit(
    request: web.Request, source: Link | Upload, options: StemSeparationOptions, ticket: Ticket | None = None
) -> JobView:
    owner = request.app[ACCESS].owner(request)
    return await request.app[SERVICE].submit(Submission(source=source, options=options, owner=owner), ticket)


def _accepted(view: JobView) -> web.Response:
    job, place = view.job, view.queue_place
    position = "next in the queue" if place in (None, 1) else f"number {place} in the queue"
    message = f"Job accepted. It is {position}; the stems should be ready in about {about(_wait_s(view))}."
    headers = {"Location": f"/api/jobs/{job.id}", "Cache-Control": "no-store"}
    if view.page_url:
        headers["Link"] = f'<{view.page_url}>; rel="alternate"; type="text/html"'
    body = StemifyResponse(job_id=job.id, estimated_duration=job.estimated_duration, message=message)
    return json_response(body, status=202, headers=headers)


def _wait_s(view: JobView) -> float:
    return view.job.estimated_duration if view.eta_s is None else view.eta_s


async def show(request: web.Request) -> web.Response:
    view = await readable_job(request)
    return json_response(job_status(view), headers={"Cache-Control": "no-store"})


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
    return json_response(job_status(view), headers={"Cache-Control": "no-store"})


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
    job_id = job_id_of(request)
    links, now = request.app[LINKS], request.app[NOW]()
    if not any(links.verify(kind, job_id, request.query, now) for kind in ("page", *link_kinds)):
        request.app[ACCESS].require_token(request)
    return await request.app[SERVICE].get(job_id)
