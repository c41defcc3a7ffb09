"""Search the jobs of an owner by title and artist."""

from __future__ import annotations

import asyncio
import logging

from engine.database.errors import StoreDamaged
from engine.database.job_store import JobStore
from engine.database.sql import QUERIES
from engine.jobs.job import Job

log = logging.getLogger(__name__)


async def find_jobs(store: JobStore, owner: str, text: str, *, limit: int) -> list[Job]:
    """Return the owner's jobs with `text` in title or artist, newest first, archived ones last."""
    wanted = text.casefold()
    rows = await store.database.read(QUERIES["titles_of"], {"owner": owner})
    found = [str(row["id"]) for row in rows if wanted in f"{row['title']} {row['artist'] or ''}".casefold()]
    jobs = [job for job_id in found[:limit] if (job := await store.get(job_id)) is not None]
    if len(jobs) == limit:
        return jobs
    try:
        older = await asyncio.to_thread(store.archive.of, owner, -1)
    except StoreDamaged as error:
        log.error("could not read the whole archive: %s", error.detail)
        older = []
    known = {job.id for job in jobs}
    jobs += [job for job in older if job.id not in known and wanted in f"{job.title} {job.artist or ''}".casefold()]
    return jobs[:limit]
