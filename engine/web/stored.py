"""Files in object storage, for whoever has our link to one: a redirect to the store, or the bytes through us.

- A plain link (90 days) leads on to a presigned one of the store (minutes), so the bytes do not come through here.
- The player asks for the bytes themselves (`via=here`): it fetches ranges from its own origin, so the bucket needs no
  CORS rules. So does a CDN (`via=cdn`), which would otherwise cache a redirect that expires.
- `download` wants another header than the store would send.
"""

from __future__ import annotations

from contextlib import suppress

from aiohttp import web

from engine.errors import NotFound
from engine.storage.object_store import ObjectStorage
from engine.web.ranges import is_unsatisfiable, range_not_satisfiable, resolve, wanted_range


async def send_stored(
    request: web.Request, storage: ObjectStorage, key: str, headers: dict[str, str]
) -> web.StreamResponse:
    """The answer for a key whose link was looked at. Raises `NotFound`, `StorageFailed` (and below)."""
    found = await storage.find(key)
    if found is None:
        raise NotFound("That file is no longer here: it was deleted, or its time is over.")
    if request.method == "GET" and not {"via", "download"} & request.query.keys():
        address = await storage.redirect(key)
        if address is not None:
            return web.Response(status=302, headers={"Location": address, "Cache-Control": "no-store"})
    etag = found.etag or f'"{found.size:x}"'
    headers = headers | {"ETag": etag, "Accept-Ranges": "bytes"}
    if etag in (each.strip() for each in request.headers.get("If-None-Match", "").split(",")):
        return web.Response(status=304, headers=headers)
    start, end, status = 0, found.size, 200
    if wanted := wanted_range(request, found.modified.timestamp(), etag):
        if is_unsatisfiable(wanted, found.size):
            return range_not_satisfiable(found.size)
        (start, end), status = resolve(wanted, found.size), 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
    response = web.StreamResponse(status=status, headers=headers)
    response.last_modified = found.modified
    response.content_length = end - start
    with suppress(ConnectionError):  # the client has gone, there is nobody to tell
        await response.prepare(request)
        if request.method != "HEAD":
            async for block in storage.open_range(key, start, end):
                await response.write(block)
        await response.write_eof()
    return response
