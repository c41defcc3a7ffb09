"""`/files/{storage key}?e=…&s=…`: the stems, pictures and peaks of a result, by signed link."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from multidict import CIMultiDict

from engine.errors import NotFound
from engine.storage.object_store import ObjectStorage
from engine.text import content_disposition, content_type
from engine.web.keys import LINKS, NOW, STORAGE
from engine.web.opened import SafeFileResponse
from engine.web.ranges import is_unsatisfiable, range_not_satisfiable, wanted_range
from engine.web.refusals import LinkExpired, LinkInvalid
from engine.web.stored import send_stored

_RESULT_FILE = re.compile(r"jobs/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/a[1-9][0-9]{0,3}/[^/]+")
_PASSED_ON = ("If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since")
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def add_routes(app: web.Application) -> None:
    app.router.add_get("/files/{key:.+}", send_file)


async def send_file(request: web.Request) -> web.StreamResponse:
    """One file, whole or a range of it. Only what a signature names, and only files of results: no input, no key."""
    key = request.match_info["key"]
    check_link(request, key)
    if not _RESULT_FILE.fullmatch(key):
        raise NotFound("That is not a file of a result.")
    storage, via_cdn = request.app[STORAGE], request.query.get("via") == "cdn"
    disposition = "attachment" if "download" in request.query else "inline"
    name = key.rpartition("/")[2]
    headers = {
        "Content-Type": content_type(name),
        "Content-Disposition": content_disposition(disposition, name),
        "Cache-Control": f"{'public' if via_cdn else 'private'}, max-age=3600",
    }
    if isinstance(storage, ObjectStorage):
        return await send_stored(request, storage, key, headers)
    path = storage.local_path(key)
    try:
        found = path.stat()
    except OSError:
        raise NotFound("That file is no longer here: it was deleted, or its time is over.") from None
    wanted = wanted_range(request, found.st_mtime, f'"{found.st_mtime_ns:x}-{found.st_size:x}"')
    if wanted and is_unsatisfiable(wanted, found.st_size):
        return range_not_satisfiable(found.st_size)
    return _File(path, wanted[0] if wanted else None, headers=headers)


def check_link(request: web.Request, key: str) -> None:
    """Raises `LinkInvalid` or, for a link that was good once, `LinkExpired`."""
    links = request.app[LINKS]
    if not links.verify("file", key, request.query, request.app[NOW]()):
        raise LinkExpired if links.verify("file", key, request.query, _BEGINNING) else LinkInvalid


class _File(SafeFileResponse):
    """aiohttp's file response does the sending. It reads the request's headers itself, and takes an If-Range
    with an ETag for none; so it is shown only those that were judged here."""

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
