"""`GET /api/jobs/{id}/stems.zip`: all stems in one file, built while it is sent.

The stems are stored without compression, which would gain little. The length is therefore known in advance, and a
browser can show the progress of the download.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress

from aiohttp import web
from zipstream.ng import ZIP_STORED, ZipStream

from engine.errors import NotFound
from engine.jobs.job import Job
from engine.mixes.mixer import completed_result
from engine.text import content_disposition, safe_title
from engine.web.api import readable_job
from engine.web.keys import STORAGE

log = logging.getLogger(__name__)

_BLOCK_BYTES = 512 * 1024


def add_routes(app: web.Application) -> None:
    app.router.add_get("/api/jobs/{job_id}/stems.zip", stems_zip)


async def stems_zip(request: web.Request) -> web.StreamResponse:
    job = (await readable_job(request, "zip")).job
    result = completed_result(job)
    archive = ZipStream(compress_type=ZIP_STORED, sized=True)
    used_names: set[str] = set()
    storage = request.app[STORAGE]
    for name, info in result.stems:
        arcname = info.filename if info.filename not in used_names else f"{name} - {info.filename}"
        used_names.add(arcname)
        stored = await storage.open(info.path)
        if stored.path is not None:
            archive.add_path(str(stored.path), arcname)
        elif stored.size == info.size:
            archive.add(stored.read(0, stored.size), arcname, size=stored.size)
        else:
            raise NotFound("The stems of this job were deleted or have expired.")
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/zip",
            "Content-Disposition": content_disposition("attachment", zip_filename(job)),
            "Content-Length": str(len(archive)),
            "Cache-Control": "private, no-store",
            "Accept-Ranges": "none",
        }
    )
    with suppress(ConnectionError):  # the client has disconnected
        await response.prepare(request)
        if request.method != "HEAD":
            blocks = _in_blocks(archive)
            while block := await storage.in_thread(next, blocks, b""):
                await response.write(block)
        await response.write_eof()
    return response


def zip_filename(job: Job) -> str:
    return f"{safe_title(f'{job.artist} - {job.title}' if job.artist else job.title)} - stems.zip"


def _in_blocks(archive: ZipStream) -> Iterator[bytes]:
    """Join the archive's pieces into blocks large enough for a thread hop."""
    waiting = bytearray()
    for piece in archive:
        waiting += piece
        if len(waiting) >= _BLOCK_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)
