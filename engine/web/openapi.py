"""`/api/openapi.json`: the OpenAPI description, generated from the entities of the API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Literal

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from engine.jobs.comparison import LABELS
from engine.mixes.entities import Mix, MixRequest, Version, VersionRequest
from engine.text import CONTENT_TYPES
from engine.web.api import MAX_LISTED, MAX_OFFSET
from engine.web.comparisons import Choice
from engine.web.errors import ErrorResponse
from engine.web.health import Health, Readiness
from engine.web.keys import ACCESS
from engine.web.openapi_parts import JOB_ID, SENTENCES, Schema, errors, json_of, operation, plain, ref
from engine.web.overview import LimitsResponse, ModelsResponse
from engine.web.schemas import JobEvent, JobListResponse, JobStatusResponse, StemifyRequest, StemifyResponse
from engine.web.static_files import StaticFile

_MODELS: Sequence[tuple[type[BaseModel], Literal["validation", "serialization"]]] = (
    (StemifyRequest, "validation"),
    (StemifyResponse, "serialization"),
    (Choice, "serialization"),
    (JobListResponse, "serialization"),
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
_RATE_LIMIT: Schema = {
    "RateLimit-Policy": {
        "description": "Jobs (q) in seconds (w); absent without a limit",
        "schema": {"type": "string"},
    },
    "RateLimit": {"description": "Jobs left (r); the next one in seconds (t)", "schema": {"type": "string"}},
}


def add_routes(app: web.Application) -> None:
    app.router.add_get("/api/openapi.json", openapi_json)


async def openapi_json(request: web.Request) -> web.Response:
    return _document(request.app[ACCESS].wants_token).response(request)


@cache
def _document(wants_token: bool) -> StaticFile:
    return StaticFile(json.dumps(openapi(wants_token=wants_token)).encode(), "application/json")


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
            "/api/models": {"get": plain("getModels", "List the models", "ModelsResponse", 401)},
            "/api/limits": {"get": plain("getLimits", "Get the limits for the caller", "LimitsResponse", 401)},
            "/api/jobs": {"get": _list()},
            "/api/jobs/{jobId}": {"parameters": [JOB_ID], "get": _show(), "delete": _remove()},
            "/api/jobs/{jobId}/again": {"parameters": [JOB_ID], "post": _again()},
            "/api/jobs/{jobId}/compare": {"parameters": [JOB_ID], "post": _compare()},
            "/api/jobs/{jobId}/choose": {"parameters": [JOB_ID], "post": _choose()},
            "/api/jobs/{jobId}/events": {"parameters": [JOB_ID], "get": _events()},
            "/api/jobs/{jobId}/stems.zip": {"parameters": [JOB_ID], "get": _zip()},
            "/api/jobs/{jobId}/mixes": {"parameters": [JOB_ID], "post": _mix()},
            "/api/jobs/{jobId}/versions": {"parameters": [JOB_ID], "post": _version()},
            "/files/jobs/{jobId}/{attempt}/{filename}": {"get": _file()},
            "/healthz": {"get": plain("healthz", "Check that the process responds", "Health")},
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


def _stemify() -> Schema:
    form: Schema = {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "format": "binary", "description": "The song, at most 50 MB and 10 minutes"},
            "options": ref("StemSeparationOptions"),
        },
    }
    link: Schema = {
        "type": "object",
        "required": ["youtubeUrl"],
        "additionalProperties": False,
        "properties": {
            "youtubeUrl": {"type": "string", "description": "The address of one YouTube video"},
            "options": {"anyOf": [ref("StemSeparationOptions"), {"type": "null"}]},
        },
    }
    accepted: Schema = {
        "description": "Accepted; the message has the queue position and the estimate",
        "content": json_of("StemifyResponse"),
        "headers": {
            "Location": {"description": "The job", "schema": {"type": "string"}},
            "Link": {"description": "The player page, signed (rel=alternate)", "schema": {"type": "string"}},
            **_RATE_LIMIT,
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
    responses = {"202": accepted, **errors(400, 401, 403, 408, 409, 413, 415, 422, 429)}
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same request with the same key creates one job in a day",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    }
    return operation("stemify", "Separate a song into stems", responses, parameters=[key], requestBody=body)


def _again() -> Schema:
    body: Schema = {
        "description": "Options to change; the others are those of the job",
        "content": {"application/json": {"schema": ref("StemSeparationOptions")}},
    }
    summary = "Separate the kept song of a completed job again, or retry a failed one"
    return _new_job(
        "separateAgain", summary, "Accepted, like a submission; completed if the result exists already", body
    )


def _compare() -> Schema:
    body: Schema = {"required": True, "content": json_of("Comparison")}
    summary = "Separate half a minute of the kept song of a completed job with several models"
    return _new_job("compareModels", summary, "Accepted, like a submission", body)


def _new_job(name: str, summary: str, description: str, body: Schema) -> Schema:
    accepted: Schema = {"description": description, "content": json_of("StemifyResponse")}
    responses = {"202": accepted, **errors(400, 401, 403, 404, 408, 409, 410, 413, 422, 429)}
    return operation(name, summary, responses, requestBody=body)


def _choose() -> Schema:
    label: Schema = {"type": "string", "enum": list(LABELS)}
    schema: Schema = {"type": "object", "required": ["label"], "properties": {"label": label}}
    good: Schema = {"200": {"description": "The names of the models", "content": json_of("Choice")}}
    responses = {**good, **errors(400, 401, 404, 408, 409, 413)}
    body: Schema = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation("chooseModel", "Choose a model of a comparison, and get their names", responses, requestBody=body)


def _list() -> Schema:
    def parameter(name: str, least: int, most: int, default: int) -> Schema:
        schema = {"type": "integer", "minimum": least, "maximum": most, "default": default}
        return {"name": name, "in": "query", "schema": schema}

    good: Schema = {"200": {"description": "A page of jobs, newest first", "content": json_of("JobListResponse")}}
    parameters = [parameter("limit", 1, MAX_LISTED, 25), parameter("offset", 0, MAX_OFFSET, 0)]
    summary = "List the jobs that were submitted from the caller's address"
    return operation("listJobs", summary, {**good, **errors(400, 401, 403)}, parameters=parameters)


def _show() -> Schema:
    etag = {"ETag": {"description": "Changes with the job", "schema": {"type": "string"}}}
    good: Schema = {
        "200": {
            "description": "The current state of the job",
            "content": json_of("JobStatusResponse"),
            "headers": etag,
        },
        "304": {"description": "Not modified", "headers": etag},
    }
    known = {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}}
    responses = {**good, **errors(401, 404)}
    return operation("getJob", "Get a job's progress and result", responses, parameters=[known])


def _remove() -> Schema:
    good: Schema = {
        "200": {"description": "The job was unfinished and is cancelled", "content": json_of("JobStatusResponse")},
        "204": {"description": "The job was finished and is deleted with its files"},
    }
    return operation("removeJob", "Cancel a job, or delete a finished one", {**good, **errors(401, 403, 404)})


def _events() -> Schema:
    good: Schema = {
        "200": {
            "description": (
                "Server-sent events: `data` is a JobEvent. The current state comes first, then every change; "
                "comments keep the connection alive; the stream ends after the event with the id `over`. If the job "
                "is deleted, the last event is `gone`."
            ),
            # Without a type: clients disagree whether the schema is that of the text or of each event.
            "content": {"text/event-stream": {"schema": {"x-data": ref("JobEvent")}}},
        },
        "204": {"description": "The client has already seen the last event (Last-Event-ID)"},
    }
    return operation("watchJob", "Follow a job", {**good, **errors(401, 404, 429)})


def _zip() -> Schema:
    good: Schema = {
        "200": {
            "description": "All stems",
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        }
    }
    return operation("downloadStems", "All stems in one file", {**good, **errors(401, 404, 409)})


def _mix() -> Schema:
    summary = "Make one file of the stems, with any levels, range, key and tempo; the same request gives the same file"
    return _make_file("makeMix", summary, "MixRequest", "Mix")


def _version() -> Schema:
    return _make_file("makeVersion", "Make all stems in another key and tempo", "VersionRequest", "Version")


def _make_file(name: str, summary: str, request: str, response: str) -> Schema:
    good: Schema = {"201": {"description": "The files are ready", "content": json_of(response)}}
    responses = {**good, **errors(400, 401, 403, 404, 408, 409, 413, 422, 429)}
    return operation(name, summary, responses, requestBody={"required": True, "content": json_of(request)})


def _file() -> Schema:
    def parameter(name: str, where: str, pattern: str, about: str) -> Schema:
        schema = {"type": "string", "pattern": pattern}
        return {"name": name, "in": where, "required": True, "schema": schema, "description": about}

    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in [*CONTENT_TYPES.values()]}
    content["application/octet-stream"] = content["audio/mpeg"]
    parameters = [
        JOB_ID,
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
        "412": {"description": SENTENCES[412]},
    }
    responses = {**good, **errors(403, 404, 410, 416)}
    summary = "Download a result file by the signed link in cdnUrl"
    return operation("getFile", summary, responses, parameters=parameters, security=[])


def _readyz() -> Schema:
    operation = plain("readyz", "Check that jobs can run", "Readiness")
    either = {"anyOf": [ref("Readiness"), ref("ErrorResponse")]}
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
    return operation("metrics", "Get the backend's metrics", {**good, **errors(401)})
