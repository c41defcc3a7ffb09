"""The parts that the operations of the OpenAPI description are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

SENTENCES: dict[int, str] = {
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


JOB_ID: Schema = {
    "name": "jobId",
    "in": "path",
    "required": True,
    "description": "From StemifyResponse. Knowing it allows reading the job.",
    "schema": {"type": "string", "format": "uuid"},
}


def ref(model: str) -> Schema:
    return {"$ref": f"#/components/schemas/{model}"}


def json_of(model: str) -> Schema:
    return {"application/json": {"schema": ref(model)}}


def errors(*statuses: int) -> Schema:
    return {
        str(status): {
            "description": SENTENCES[status],
            "content": json_of("ErrorResponse"),
            **({"headers": _WITH_HEADERS[status]} if status in _WITH_HEADERS else {}),
        }
        for status in sorted({*statuses, 415, 421, 500, 503})
    }


def operation(name: str, summary: str, responses: Mapping[str, Schema], **more: object) -> Schema:
    return {"operationId": name, "summary": summary, **more, "responses": dict(sorted(responses.items()))}


def plain(name: str, summary: str, model: str, *statuses: int) -> Schema:
    """Describe a GET without parameters; `statuses`: 401 if it requires a token."""
    good: Schema = {"200": {"description": summary, "content": json_of(model)}}
    is_open: Schema = {} if 401 in statuses else {"security": []}
    return operation(name, summary, {**good, **errors(*statuses)}, **is_open)
