"""Watch jobs through errors of the backend."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from engine.errors import NotFound
from engine.jobs.job import JobView
from engine.service.service import StemService

log = logging.getLogger(__name__)


async def watch_job(service: StemService, job_id: str) -> AsyncGenerator[JobView, None]:
    """Yield the states of a job until it has ended or was deleted."""
    while True:
        try:
            async for view in service.watch(job_id):
                yield view
                if view.job.is_over:
                    return
        except NotFound:
            return
        except Exception:
            log.exception("watching the job failed, trying again", extra={"job": job_id})
            await asyncio.sleep(2)
        else:
            await asyncio.sleep(0.2)
