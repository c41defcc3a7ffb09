"""`/api/openapi.json`: the OpenAPI description, generated from the entities of the API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from engine.mixes.entities import Mix, MixRequest, Version, VersionRequest
from engine.text import CONTENT_TYPES
from engine.web.errors import ErrorResponse
from engine.web.health import Health, Readiness
from engine.web.keys import ACCESS
from engine.web.overview import LimitsResponse, ModelsResponse
from engine.web.schemas import JobEvent, JobStatusResponse, StemifyRequest, StemifyResponse

Schema = dict[str, Any]
_MODELS: Sequence[tuple[type[BaseModel], Literal["validation", "serialization"]]] = (
    (StemifyRequest, "validation"),
    (StemifyResponse, "serialization"),
    (JobStatusResponse, "serialization"),
    (JobEvent, "serialization"),
    (ModelsResponse, "serialization"),
    (LimitsResponse, "serialization"),
    (MixRequest, "validation"),
    (Mix, "serialization"),
    (VersionRequest, "validation"),
    (Version, "serialization"),
    (ErrorResponse, "serialization"),
    (Health, "serialization"),
    (Readiness, "serialization"),
)
_SENTENCES: dict[int, str] = {
    400: "The request is not valid",
    401: "An API token is required",
    403: "Not allowed: a cross-site request, a job of another owner, or a changed link",
    404: "The job or file does not exist",
    405: "The method is not allowed here",
    408: "The upload was too slow",
    409: "Not possible in the job's current state",
    410: "The link has expired, or the song is no longer there",
    412: "The file is not the requested version",
    413: "Too large; the connection is closed without reading the rest",
    415: "Neither a song as multipart/form-data nor a link as application/json, not an audio file, or an encoded body",
    416: "The range is beyond the end of the file",
    421: "Not a host name of this server",
    422: "Valid but refused: the options, an unavailable model, the link or the audio",
    429: "Too many jobs, mixes or streams, or too little disk space; Retry-After says when to try again",
    500: "Internal error",
    503: "The database or the disk is unavailable",
}
_WITH_HEADERS: dict[int, Schema] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}},
    416: {"Content-Range": {"schema": {"type": "string"}}},
}


def add_routes(app: web.Application) -> None:
    app.router.add_get("/api/openapi.json", openapi_json)


async def openapi_json(request: web.Request) -> web.Response:
    return web.Response(body=_document(request.app[ACCESS].wants_token), content_type="application/json")


@cache
def _document(wants_token: bool) -> bytes:
    return json.dumps(openapi(wants_token=wants_token)).encode()


def openapi(*, wants_token: bool) -> Schema:
    """Return the OpenAPI 3.1 document."""
    _, schemas = models_json_schema(_MODELS, ref_template="#/components/schemas/{model}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stemify",
            "version": version("stemify"),
            "description": "Separates songs into stems. Errors are always an ErrorResponse.",
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/api/stemify": {"post": _stemify()},
            "/api/models": {"get": _plain("getModels", "List the models", "ModelsResponse", 401)},
            "/api/limits": {"get": _plain("getLimits", "Get the limits for the caller", "LimitsResponse", 401)},
            "/api/jobs/{jobId}": {"parameters": [_JOB_ID], "get": _show(), "delete": _remove()},
            "/api/jobs/{jobId}/again": {"parameters": [_JOB_ID], "post": _again()},
            "/api/jobs/{jobId}/events": {"parameters": [_JOB_ID], "get": _events()},
            "/api/jobs/{jobId}/stems.zip": {"parameters": [_JOB_ID], "get": _zip()},
            "/api/jobs/{jobId}/mixes": {"parameters": [_JOB_ID], "post": _mix()},
            "/api/jobs/{jobId}/versions": {"parameters": [_JOB_ID], "post": _version()},
            "/files/jobs/{jobId}/{attempt}/{filename}": {"get": _file()},
            "/healthz": {"get": _plain("healthz", "Check that the process responds", "Health")},
            "/readyz": {"get": _readyz()},
            "/metrics": {"get": _metrics()},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Required if tokens are configured"},
            },
        },
        "security": [{"token": []}] if wants_token else [],
    }


_JOB_ID: Schema = {
    "name": "jobId",
    "in": "path",
    "required": True,
    "description": "From StemifyResponse. Knowing it allows reading the job.",
    "schema": {"type": "string", "format": "uuid"},
}


def _ref(model: str) -> Schema:
    return {"$ref": f"#/components/schemas/{model}"}


def _json(model: str) -> Schema:
    return {"application/json": {"schema": _ref(model)}}


def _errors(*statuses: int) -> Schema:
    return {
        str(status): {
            "description": _SENTENCES[status],
            "content": _json("ErrorResponse"),
            **({"headers": _WITH_HEADERS[status]} if status in _WITH_HEADERS else {}),
        }
        for status in sorted({*statuses, 415, 421, 500, 503})
    }


def _operation(name: str, summary: str, responses: Mapping[str, Schema], **more: object) -> Schema:
    return {"operationId": name, "summary": summary, **more, "responses": dict(sorted(responses.items()))}


def _stemify() -> Schema:
    form: Schema = {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "format": "binary", "description": "The song, at most 50 MB and 10 minutes"},
            "options": _ref("StemSeparationOptions"),
        },
    }
    link: Schema = {
        "type": "object",
        "required": ["youtubeUrl"],
        "additionalProperties": False,
        "properties": {
            "youtubeUrl": {"type": "string", "description": "The address of one YouTube video"},
            "options": {"anyOf": [_ref("StemSeparationOptions"), {"type": "null"}]},
        },
    }
    accepted: Schema = {
        "description": "Accepted; the message has the queue position and the estimate",
        "content": _json("StemifyResponse"),
        "headers": {
            "Location": {"description": "The job", "schema": {"type": "string"}},
            "Link": {"description": "The player page, signed (rel=alternate)", "schema": {"type": "string"}},
        },
        "links": {
            name: {"operationId": name, "parameters": {"jobId": "$response.body#/jobId"}}
            for name in ("getJob", "watchJob", "removeJob", "downloadStems")
        },
    }
    body: Schema = {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form, "encoding": {"options": {"contentType": "application/json"}}},
            "application/json": {"schema": link},
        },
    }
    responses = {"202": accepted, **_errors(400, 401, 403, 408, 409, 413, 415, 422, 429)}
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same request with the same key creates one job in a day",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    }
    return _operation("stemify", "Separate a song into stems", responses, parameters=[key], requestBody=body)


def _again() -> Schema:
    body: Schema = {
        "description": "Options to change; the others are those of the job",
        "content": {"application/json": {"schema": _ref("StemSeparationOptions")}},
    }
    accepted: Schema = {
        "description": "Accepted, like a submission; completed if the result exists already",
        "content": _json("StemifyResponse"),
    }
    summary = "Separate the kept song of a completed job again, or retry a failed one"
    responses = {"202": accepted, **_errors(400, 401, 403, 404, 408, 409, 410, 413, 422, 429)}
    return _operation("separateAgain", summary, responses, requestBody=body)


def _show() -> Schema:
    etag = {"ETag": {"description": "Changes with the job", "schema": {"type": "string"}}}
    good: Schema = {
        "200": {"description": "The current state of the job", "content": _json("JobStatusResponse"), "headers": etag},
        "304": {"description": "Not modified", "headers": etag},
    }
    known = {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}}
    responses = {**good, **_errors(401, 404)}
    return _operation("getJob", "Get a job's progress and result", responses, parameters=[known])


def _remove() -> Schema:
    good: Schema = {
        "200": {"description": "The job was unfinished and is cancelled", "content": _json("JobStatusResponse")},
        "204": {"description": "The job was finished and is deleted with its files"},
    }
    return _operation("removeJob", "Cancel a job, or delete a finished one", {**good, **_errors(401, 403, 404)})


def _events() -> Schema:
    good: Schema = {
        "200": {
            "description": (
                "Server-sent events: `data` is a JobEvent. The current state comes first, then every change; "
                "comments keep the connection alive; the stream ends after the event with the id `over`. If the job "
                "is deleted, the last event is `gone`."
            ),
            "content": {"text/event-stream": {"schema": {"type": "string", "x-data": _ref("JobEvent")}}},
        },
        "204": {"description": "The client has already seen the last event (Last-Event-ID)"},
    }
    return _operation("watchJob", "Follow a job", {**good, **_errors(401, 404, 429)})


def _zip() -> Schema:
    good: Schema = {
        "200": {
            "description": "All stems",
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        }
    }
    return _operation("downloadStems", "All stems in one file", {**good, **_errors(401, 404, 409)})


def _mix() -> Schema:
    summary = "Make one file of the stems, with any levels, range, key and tempo; the same request gives the same file"
    return _make_file("makeMix", summary, "MixRequest", "Mix")


def _version() -> Schema:
    return _make_file("makeVersion", "Make all stems in another key and tempo", "VersionRequest", "Version")


def _make_file(name: str, summary: str, request: str, response: str) -> Schema:
    good: Schema = {"201": {"description": "The files are ready", "content": _json(response)}}
    responses = {**good, **_errors(400, 401, 403, 404, 408, 409, 413, 422, 429)}
    return _operation(name, summary, responses, requestBody={"required": True, "content": _json(request)})


def _file() -> Schema:
    def parameter(name: str, where: str, pattern: str, about: str) -> Schema:
        schema = {"type": "string", "pattern": pattern}
        return {"name": name, "in": where, "required": True, "schema": schema, "description": about}

    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in [*CONTENT_TYPES.values()]}
    content["application/octet-stream"] = content["audio/mpeg"]
    parameters = [
        _JOB_ID,
        parameter("attempt", "path", "^(a[1-9][0-9]{0,3}|m[0-9a-f]{32})$", "Part of the link"),
        parameter("filename", "path", "^[^/]+$", "Part of the link"),
        parameter("e", "query", "^[0-9]+$", "When the link expires, in seconds since 1970"),
        parameter("s", "query", "^[A-Za-z0-9_-]+$", "The signature"),
        {
            "name": "download",
            "in": "query",
            "schema": {"type": "string"},
            "description": "If present, the file is sent as an attachment",
        },
        {"name": "Range", "in": "header", "schema": {"type": "string"}, "description": "One range of bytes"},
    ]
    good: Schema = {
        "200": {"description": "The file", "content": content},
        "206": {"description": "The requested range", "content": content},
        "304": {"description": "Not modified"},
        "412": {"description": _SENTENCES[412]},
    }
    responses = {**good, **_errors(403, 404, 410, 416)}
    summary = "Download a result file by the signed link in cdnUrl"
    return _operation("getFile", summary, responses, parameters=parameters, security=[])


def _plain(name: str, summary: str, model: str, *errors: int) -> Schema:
    """Describe a GET without parameters; `errors`: 401 if it requires a token."""
    good: Schema = {"200": {"description": summary, "content": _json(model)}}
    is_open: Schema = {} if 401 in errors else {"security": []}
    return _operation(name, summary, {**good, **_errors(*errors)}, **is_open)


def _readyz() -> Schema:
    operation = _plain("readyz", "Check that jobs can run", "Readiness")
    either = {"anyOf": [_ref("Readiness"), _ref("ErrorResponse")]}
    not_ready: Schema = {
        "description": "Not ready; the checks say why",
        "content": {"application/json": {"schema": either}},
    }
    operation["responses"]["503"] = not_ready
    return operation


def _metrics() -> Schema:
    good: Schema = {
        "200": {"description": "Prometheus text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
    }
    return _operation("metrics", "Get the backend's metrics", {**good, **_errors(401)})
