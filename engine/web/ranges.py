"""The one range of a file that a request asks for, as RFC 9110 (14.2, 13.1.5) has it."""

from __future__ import annotations

import math
import re
from email.utils import parsedate_to_datetime

from aiohttp import web

from engine.web.errors import error_response
from engine.web.refusals import RangeNotSatisfiable

_ONE_RANGE = re.compile(r"bytes=(?:(?P<first>\d{1,15})-(?P<last>\d{0,15})|-(?P<suffix>\d{1,15}))", re.ASCII)


def wanted_range(request: web.Request, modified: float, etag: str) -> re.Match[str] | None:
    """The one range that is asked for and applies. Others (several, malformed, of an older version) are ignored: the
    answer is then the whole file."""
    wanted = _ONE_RANGE.fullmatch(request.headers.get("Range", "").strip())
    if wanted is None or (wanted["last"] and int(wanted["last"]) < int(wanted["first"])):
        return None
    version = request.headers.get("If-Range")
    if version is None or version == etag:
        return wanted
    try:
        return wanted if math.ceil(modified) == int(parsedate_to_datetime(version).timestamp()) else None
    except ValueError:  # another version's ETag
        return None


def is_unsatisfiable(wanted: re.Match[str], size_bytes: int) -> bool:
    return int(wanted["first"]) >= size_bytes if wanted["first"] else int(wanted["suffix"]) == 0 or size_bytes == 0


def resolve(wanted: re.Match[str], size_bytes: int) -> tuple[int, int]:
    """First byte, and the one after the last, of a range that is not outside."""
    if wanted["first"]:
        last = int(wanted["last"]) if wanted["last"] else size_bytes - 1
        return int(wanted["first"]), min(last, size_bytes - 1) + 1
    return max(0, size_bytes - int(wanted["suffix"])), size_bytes


def range_not_satisfiable(size_bytes: int) -> web.StreamResponse:
    """416, with the size that the file has."""
    response = error_response(RangeNotSatisfiable())
    response.headers["Content-Range"] = f"bytes */{size_bytes}"
    return response
