"""`/api/openapi.json`: the description of the API, generated from the entities that it speaks in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from engine.text import CONTENT_TYPES
from engine.web.errors import ErrorResponse
from engine.web.health import Health, Readiness
from engine.web.keys import ACCESS
from engine.web.schemas import JobEvent, JobStatusResponse, StemifyRequest, StemifyResponse

Schema = dict[str, Any]
_MODELS: Sequence[tuple[type[BaseModel], Literal["validation", "serialization"]]] = (
    (StemifyRequest, "validation"),
    (StemifyResponse, "serialization"),
    (JobStatusResponse, "serialization"),
    (JobEvent, "serialization"),
    (ErrorResponse, "serialization"),
    (Health, "serialization"),
    (Readiness, "serialization"),
)
_SENTENCES: dict[int, str] = {
    400: "The request cannot be read",
    401: "An API token is wanted",
    403: "Not allowed: another web site asks, the job is somebody else's, or the link was changed",
    404: "There is no such job or file",
    405: "That method is not for this address",
    408: "The upload stood still for too long",
    409: "Not possible in the state that the job is in",
    410: "The link has expired",
    412: "The file is not the version that was asked for",
    413: "Larger than accepted; the connection is closed without reading the rest",
    415: "Neither a song as multipart/form-data nor a link as application/json, not an audio file, or an encoded body",
    416: "The file is shorter than that",
    421: "Not a name of this server",
    422: "Understood, and refused: the options, a model that cannot be used here, the link or the audio",
    429: "Too many jobs, or streams, or too little room on the disk; Retry-After says when to come back",
    500: "A defect",
    503: "Something is missing that may come back: the store or the disk",
}
_WITH_HEADERS: dict[int, Schema] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}},
    416: {"Content-Range": {"schema": {"type": "string"}}},
}


def add_routes(app: web.Application) -> None:
    app.router.add_get("/api/openapi.json", openapi_json, allow_head=False)


async def openapi_json(request: web.Request) -> web.Response:
    return web.Response(body=_document(request.app[ACCESS].wants_token), content_type="application/json")


@cache
def _document(wants_token: bool) -> bytes:
    return json.dumps(openapi(wants_token=wants_token)).encode()


def openapi(*, wants_token: bool) -> Schema:
    """The document, OpenAPI 3.1."""
    _, schemas = models_json_schema(_MODELS, ref_template="#/components/schemas/{model}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stemify",
            "version": version("stemify"),
            "description": "Turns a song into its stems. Errors are always ErrorResponse.",
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/api/stemify": {"post": _stemify()},
            "/api/jobs/{jobId}": {"parameters": [_JOB_ID], "get": _show(), "delete": _remove()},
            "/api/jobs/{jobId}/events": {"parameters": [_JOB_ID], "get": _events()},
            "/api/jobs/{jobId}/stems.zip": {"parameters": [_JOB_ID], "get": _zip()},
            "/files/jobs/{jobId}/{attempt}/{filename}": {"get": _file()},
            "/healthz": {"get": _plain("healthz", "The process answers", "Health")},
            "/readyz": {"get": _readyz()},
            "/metrics": {"get": _metrics()},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Wanted where tokens are set up"},
            },
        },
        "security": [{"token": []}] if wants_token else [],
    }


_JOB_ID: Schema = {
    "name": "jobId",
    "in": "path",
    "required": True,
    "description": "From StemifyResponse. Whoever knows it may read the job.",
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
        "description": "Accepted: the message says where the job is in line, and the estimate",
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
    return _operation("stemify", "Separate a song into stems", responses, requestBody=body)


def _show() -> Schema:
    good = {"200": {"description": "The job as it is now", "content": _json("JobStatusResponse")}}
    return _operation("getJob", "How far a job is, and its result", {**good, **_errors(401, 404)})


def _remove() -> Schema:
    good: Schema = {
        "200": {"description": "It was not over and is cancelled", "content": _json("JobStatusResponse")},
        "204": {"description": "It was over and is deleted, with its files"},
    }
    return _operation("removeJob", "Cancel a job, or delete one that is over", {**good, **_errors(401, 403, 404)})


def _events() -> Schema:
    good: Schema = {
        "200": {
            "description": (
                "Server-sent events: `data` is a JobEvent. The state now comes first, then every change; comments "
                "keep the connection alive; after the event with the id `over` the stream ends. A job that is "
                "deleted meanwhile ends it with the event `gone`."
            ),
            "content": {"text/event-stream": {"schema": {"type": "string", "x-data": _ref("JobEvent")}}},
        },
        "204": {"description": "The request's Last-Event-ID says that it knows how the job ended"},
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


def _file() -> Schema:
    def parameter(name: str, where: str, pattern: str, about: str) -> Schema:
        schema = {"type": "string", "pattern": pattern}
        return {"name": name, "in": where, "required": True, "schema": schema, "description": about}

    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in [*CONTENT_TYPES.values()]}
    content["application/octet-stream"] = content["audio/mpeg"]
    parameters = [
        _JOB_ID,
        parameter("attempt", "path", "^a[1-9][0-9]{0,3}$", "Part of the link"),
        parameter("filename", "path", "^[^/]+$", "Part of the link"),
        parameter("e", "query", "^[0-9]+$", "When the link ends, seconds since 1970"),
        parameter("s", "query", "^[A-Za-z0-9_-]+$", "The signature"),
        {
            "name": "download",
            "in": "query",
            "schema": {"type": "string"},
            "description": "If there: to be saved rather than played",
        },
        {"name": "Range", "in": "header", "schema": {"type": "string"}, "description": "One range of bytes"},
    ]
    good: Schema = {
        "200": {"description": "The file", "content": content},
        "206": {"description": "The range of it", "content": content},
        "304": {"description": "It has not changed"},
        "412": {"description": _SENTENCES[412]},
    }
    responses = {**good, **_errors(403, 404, 410, 416)}
    summary = "A file of a result; take the link whole from cdnUrl, it cannot be made up"
    return _operation("getFile", summary, responses, parameters=parameters, security=[])


def _plain(name: str, summary: str, model: str) -> Schema:
    good: Schema = {"200": {"description": summary, "content": _json(model)}}
    return _operation(name, summary, {**good, **_errors()}, security=[])


def _readyz() -> Schema:
    operation = _plain("readyz", "Songs can be separated", "Readiness")
    either = {"anyOf": [_ref("Readiness"), _ref("ErrorResponse")]}
    not_ready: Schema = {
        "description": "They cannot; the checks say why",
        "content": {"application/json": {"schema": either}},
    }
    operation["responses"]["503"] = not_ready
    return operation


def _metrics() -> Schema:
    good: Schema = {"200": {"description": "For Prometheus", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    return _operation("metrics", "The backend's numbers", {**good, **_errors(401)})
