"""`/files/{storage key}?e=…&s=…`: the files of a result and its mixes, by signed link.

From object storage the answer is a redirect or the bytes:

- A plain link (90 days) redirects to a presigned one of the store (minutes), so the bytes do not pass through here.
- The player asks for the bytes (`via=here`): it fetches ranges from its own origin, so the bucket needs no CORS rules.
  So does a CDN (`via=cdn`), which would otherwise cache a redirect that expires.
- `download` needs another header than the store would send.
"""

from __future__ import annotations

import asyncio
import errno
import math
import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BufferedReader
from pathlib import Path
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from engine.errors import NotFound
from engine.service.links import Kind
from engine.storage.storage import StoredFile
from engine.text import content_disposition, content_type
from engine.web.errors import LinkExpired, LinkInvalid, RangeNotSatisfiable, error_response
from engine.web.keys import LINKS, NOW, STORAGE

_RESULT_FILE = re.compile(r"jobs/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/(?:a[1-9][0-9]{0,3}|m[0-9a-f]{32})/[^/]+")
_PASSED_ON = ("If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since")
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_RANGE = re.compile(r"bytes=(?:(?P<first>\d{1,15})-(?P<last>\d{0,15})|-(?P<suffix>\d{1,15}))", re.ASCII)
_UNREACHABLE = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)


def add_routes(app: web.Application) -> None:
    app.router.add_get("/files/{key:.+}", send_file)


async def send_file(request: web.Request) -> web.StreamResponse:
    """Send a signed result file, or one range of it. Inputs and keys are never served."""
    key = request.match_info["key"]
    check_link(request, "file", key)
    if not _RESULT_FILE.fullmatch(key):
        raise NotFound("There is no such result file.")
    storage, via_cdn = request.app[STORAGE], request.query.get("via") == "cdn"
    disposition = "attachment" if "download" in request.query else "inline"
    name = key.rpartition("/")[2]
    headers = {
        "Content-Type": content_type(name),
        "Content-Disposition": content_disposition(disposition, name),
        "Cache-Control": f"{'public' if via_cdn else 'private'}, max-age=3600",
    }
    stored = await storage.open(key)
    if stored.path is None and request.method == "GET" and not {"via", "download"} & request.query.keys():
        address = await storage.redirect(key)
        if address is not None:
            return web.Response(status=302, headers={"Location": address})
    wanted = _wanted_range(request, stored)
    if stored.path is not None:
        if wanted and _is_unsatisfiable(wanted, stored.size):
            return _range_not_satisfiable(stored.size)
        return _File(stored.path, wanted[0] if wanted else None, headers=headers)
    return await _send_stream(request, stored, wanted, headers)


def check_link(request: web.Request, kind: Kind, subject: str) -> None:
    """Raise `LinkInvalid` for a wrong signature, `LinkExpired` for a valid one that has expired."""
    links = request.app[LINKS]
    if not links.verify(kind, subject, request.query, request.app[NOW]()):
        raise LinkExpired if links.verify(kind, subject, request.query, _BEGINNING) else LinkInvalid


async def _send_stream(
    request: web.Request, stored: StoredFile, wanted: re.Match[str] | None, headers: dict[str, str]
) -> web.StreamResponse:
    """Send a file that is not on this disk. Raises `NotFound`, `StorageFailed`."""
    headers = headers | {"ETag": stored.etag, "Accept-Ranges": "bytes"}
    if stored.etag in (each.strip() for each in request.headers.get("If-None-Match", "").split(",")):
        return web.Response(status=304, headers=headers)
    start, end, status = 0, stored.size, 200
    if wanted:
        if _is_unsatisfiable(wanted, stored.size):
            return _range_not_satisfiable(stored.size)
        (start, end), status = _resolve(wanted, stored.size), 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size}"
    response = web.StreamResponse(status=status, headers=headers)
    response.last_modified = stored.modified
    response.content_length = end - start
    with suppress(ConnectionError):  # the client has disconnected
        await response.prepare(request)
        if request.method != "HEAD":
            async for block in stored.stream(start, end):
                await response.write(block)
        await response.write_eof()
    return response


def _wanted_range(request: web.Request, stored: StoredFile) -> re.Match[str] | None:
    """Return the requested range if it applies (RFC 9110, 14.2 and 13.1.5).

    Several ranges, malformed ones and ranges of another version are ignored: the whole file is sent.
    """
    wanted = _ONE_RANGE.fullmatch(request.headers.get("Range", "").strip())
    if wanted is None or (wanted["last"] and int(wanted["last"]) < int(wanted["first"])):
        return None
    version = request.headers.get("If-Range")
    if version is None or version == stored.etag:
        return wanted
    try:
        is_current = math.ceil(stored.modified.timestamp()) == int(parsedate_to_datetime(version).timestamp())
    except ValueError:  # another version's ETag
        return None
    return wanted if is_current else None


def _is_unsatisfiable(wanted: re.Match[str], size_bytes: int) -> bool:
    return int(wanted["first"]) >= size_bytes if wanted["first"] else int(wanted["suffix"]) == 0 or size_bytes == 0


def _resolve(wanted: re.Match[str], size_bytes: int) -> tuple[int, int]:
    """Return the first byte and the one after the last of a satisfiable range."""
    if wanted["first"]:
        last = int(wanted["last"]) if wanted["last"] else size_bytes - 1
        return int(wanted["first"]), min(last, size_bytes - 1) + 1
    return max(0, size_bytes - int(wanted["suffix"])), size_bytes


def _range_not_satisfiable(size_bytes: int) -> web.StreamResponse:
    """Return a 416 response with the size of the file."""
    response = error_response(RangeNotSatisfiable())
    response.headers["Content-Range"] = f"bytes */{size_bytes}"
    return response


class SafeFileResponse(web.FileResponse):
    """A file response that closes its file if the client disconnects.

    aiohttp opens the file in a thread and leaks it if the handler is cancelled at that moment.
    """

    _opened: BufferedReader | None = None
    _is_cancelled = False

    def _make_response(self, request: web.BaseRequest, accept_encoding: str) -> Any:
        found = super()._make_response(request, accept_encoding)
        self._opened = found[1]
        if self._is_cancelled and self._opened is not None:
            self._opened.close()
        return found

    async def prepare(self, request: web.BaseRequest) -> Any:
        try:
            return await super().prepare(request)
        except asyncio.CancelledError:
            self._is_cancelled = True  # first: the thread checks it after opening the file
            if self._opened is not None:
                self._opened.close()
            raise
        except OSError as error:
            if error.errno in _UNREACHABLE:  # from sendfile
                raise ConnectionResetError("the client stopped reading") from error
            raise


class _File(SafeFileResponse):
    """A file response with a range that was checked here.

    aiohttp ignores an If-Range with an ETag, so it gets a request with selected headers only.
    """

    def __init__(self, path: Path, byte_range: str | None, headers: dict[str, str]) -> None:
        super().__init__(path, headers=headers)
        self._byte_range = byte_range

    async def prepare(self, request: web.BaseRequest) -> object:  # type: ignore[override]
        shown: CIMultiDict[str] = CIMultiDict()
        for name in _PASSED_ON:
            if (value := request.headers.get(name, "")) and value.isascii():
                shown[name] = value
        if self._byte_range:
            shown["Range"] = self._byte_range
        return await super().prepare(request.clone(headers=shown))
