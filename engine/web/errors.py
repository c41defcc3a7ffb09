"""Error responses: the web server's own errors, a status by class, JSON for programs, a page for browsers."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

from aiohttp import web

from engine import errors
from engine.database.errors import StoreFailed
from engine.errors import InputRefused, InternalError, RetryLater, StemifyError
from engine.jobs.entity import Entity
from engine.service.errors import SongGone
from engine.sources import errors as source_errors
from engine.web.error_page import error_page, is_navigation
from engine.web.headers import set_common_headers

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BadRequest(InputRefused):
    """The request is not valid. The API is described at /api/openapi.json."""

    code = "bad_request"


class UnsupportedBody(BadRequest):
    """Send the song as multipart/form-data (field "file"), or a link as application/json ("youtubeUrl")."""

    code = "unsupported_body"


class UnsupportedEncoding(UnsupportedBody):
    """Encoded request bodies are not accepted. Send the body without Content-Encoding or Content-Transfer-Encoding."""

    code = "unsupported_encoding"


class UploadTooSlow(BadRequest):
    """The upload was too slow and was cancelled. Send the file again over a faster connection."""

    code = "upload_too_slow"


class HeadTooSlow(BadRequest):
    """The request did not arrive in time. Send it again."""

    code = "request_too_slow"


class HeadTooLarge(BadRequest):
    """The request's URL and headers are too large. Send fewer or shorter headers."""

    code = "head_too_large"


class TooManyStreams(RetryLater):
    """Too many pages from your network are watching jobs. Close some of them, then reload this one."""

    code = "too_many_streams"


class Unauthorized(StemifyError):
    """This server requires an API token. Ask its operator for one and send it as "Authorization: Bearer <token>"."""

    code = "no_token"


class WrongHost(StemifyError):
    """This server is not set up for this address. Open it at the address that it prints when it starts. Behind a proxy,
    set STEMIFY_WEB__PUBLIC_URL to the address that people open."""

    code = "wrong_host"


class CrossSite(StemifyError):
    """Another web site sent this request, so it was blocked. Use Stemify's own page."""

    code = "cross_site"


class PublicUrlMissing(CrossSite):
    """This page was opened at an address that the server is not set up for, so the request was blocked. The operator
    must set STEMIFY_WEB__PUBLIC_URL to the address that people open."""

    code = "public_url_missing"


class LinkInvalid(StemifyError):
    """This link is incomplete or was changed. Copy the whole link again."""

    code = "link_invalid"


class LinkExpired(StemifyError):
    """This link has expired. Get a new one where you got it, or submit the song again."""

    code = "link_expired"


class RangeNotSatisfiable(StemifyError):
    """The requested range is beyond the end of the file."""

    code = "range_outside"


STATUS: dict[type[StemifyError], int] = {
    BadRequest: 400,
    Unauthorized: 401,
    errors.NotAllowed: 403,
    CrossSite: 403,
    LinkInvalid: 403,
    errors.NotFound: 404,
    UploadTooSlow: 408,
    HeadTooSlow: 408,
    errors.InvalidState: 409,
    errors.IllegalTransition: 409,
    errors.AlreadyAccepted: 409,
    LinkExpired: 410,
    SongGone: 410,
    errors.TooLarge: 413,
    errors.NotAudio: 415,
    UnsupportedBody: 415,
    RangeNotSatisfiable: 416,
    WrongHost: 421,
    HeadTooLarge: 431,
    InputRefused: 422,
    errors.SourceFailed: 422,
    source_errors.YoutubePaused: 429,
    RetryLater: 429,
    StoreFailed: 503,
    errors.ModelUnavailable: 422,  # not 503: waiting does not help, another model does
    errors.DiskFull: 503,
    errors.StorageFailed: 503,
    errors.StemifyError: 500,
}
"""The entry of the nearest base class applies."""

_OF_HTTP: dict[int, tuple[str, str]] = {
    404: (
        "no_such_page",
        "There is no page at this address. Check that the link is complete. The API is described at /api/openapi.json.",
    ),
    405: ("method_not_allowed", "This method is not allowed here. See the Allow header."),
    413: ("too_large", "The request is too large."),
    417: ("expectation_failed", "Only 'Expect: 100-continue' is supported."),
}


class ErrorBody(Entity):
    code: str
    """A stable identifier for programs."""
    message: str
    """A sentence for people."""


class ErrorResponse(Entity):
    error: ErrorBody


def status_of(error: StemifyError) -> int:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_response(error: StemifyError, request: web.Request | None = None) -> web.Response:
    """Make a response with the headers that the status requires: a page for navigation, otherwise JSON."""
    status = status_of(error)
    response = _response(request, status, error.code, error.message)
    retry_after_s = getattr(error, "retry_after_s", None)
    if isinstance(error, RetryLater) or (status in (429, 503) and retry_after_s):
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s or 0)))
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="stemify"'
    return response


def response_bytes(error: StemifyError) -> bytes:
    """Serialize the response to a request whose headers are incomplete."""
    response = error_response(error)
    set_common_headers(response.headers)
    body = response.body
    assert isinstance(body, bytes)
    response.headers["Content-Length"] = str(len(body))
    response.headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{k}: {v}" for k, v in response.headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _response(request: web.Request | None, status: int, code: str, message: str) -> web.Response:
    if request is not None and is_navigation(request):
        return error_page(status, message)
    body = ErrorResponse(error=ErrorBody(code=code, message=message))
    return web.Response(status=status, text=body.model_dump_json(), content_type="application/json")


def http_error_response(error: web.HTTPException, request: web.Request | None = None) -> web.Response:
    code, message = _OF_HTTP.get(error.status, ("refused", f"{error.reason}."))
    response = _response(request, error.status, code, message)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return response


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with its message; log unexpected ones with a traceback and answer `internal`."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = http_error_response(error, request)
    except StemifyError as error:
        if error.detail or status_of(error) >= 500:
            log.warning("%s %.200s: %s: %s", request.method, request.path, error.code, error.detail or error.message)
        response = error_response(error, request)
    except Exception as error:
        if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            raise  # the client has disconnected
        log.exception("%s %.200s", request.method, request.path)
        response = error_response(InternalError(), request)
    if request.writer.output_size > 0:
        raise ConnectionResetError("the response had begun")  # abort, so that the client notices
    if not request.content.at_eof():
        response.force_close()  # do not read the rest of the body
    return response
