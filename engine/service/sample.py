"""The sample song of the start page, separated once and kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from engine.clock import utc_now
from engine.errors import InternalError, NotFound, StemifyError
from engine.jobs.job import JobStatus, JobView
from engine.jobs.options import Quality, StemSeparationOptions
from engine.process.environment import computing_environment
from engine.service.service import StemService, Submission, upload_of

log = logging.getLogger(__name__)

OWNER = "sample"
MODEL = "mini"  # it needs no download
_FILENAME = "Stemify sample song.wav"
_CHECK_S = 2.0
_RETRY_S = 600.0  # after a failure


class SampleSong:
    """`lifetime`: after which the song is separated again, because links to it end after twice as long."""

    def __init__(self, service: StemService, lifetime: timedelta) -> None:
        self._service = service
        self._lifetime = lifetime
        self._job_id: str | None = None
        self.is_offered = True
        """False if it cannot be separated here."""

    async def run(self) -> None:
        """Have the song separated until cancelled."""
        while True:
            await self._prepare()
            await asyncio.sleep(self._lifetime.total_seconds() if self.is_offered else _RETRY_S)

    async def _prepare(self) -> None:
        """Separate the song when no other song waits, unless an earlier run of the server has done so."""
        try:
            view = await self._earlier() or await self._submit()
            self._job_id = view.job.id
            async with contextlib.aclosing(self._service.watch(view.job.id)) as states:
                async for _ in states:
                    pass
            view = await self._service.get(view.job.id)
            if view.job.status is JobStatus.FAILED:
                raise InternalError(detail=view.job.error)
            if not view.job.keep:
                await self._service.keep(view.job.id, by=OWNER)
            self.is_offered = True
        except (StemifyError, OSError) as error:
            self.is_offered = False
            reason = error.detail if isinstance(error, StemifyError) else None
            log.warning("the start page offers no sample song: %s", reason or error)

    async def page_url(self) -> str | None:
        """Return the page of the song; None until its job exists. Raises `NotFound` if it is not offered."""
        if not self.is_offered:
            raise NotFound("This server has no sample song.")
        return None if self._job_id is None else (await self._service.get(self._job_id)).page_url

    async def _earlier(self) -> JobView | None:
        views = await self._service.list(OWNER, limit=1)
        if not views:
            return None
        job = views[0].job
        if job.status is not JobStatus.FAILED and utc_now() - job.created_at < self._lifetime:
            return views[0]
        self._job_id = None  # visitors wait for the new one
        await self._service.delete(job.id, by=OWNER)
        return None

    async def _submit(self) -> JobView:
        while not await self._is_idle():  # noqa: ASYNC110
            await asyncio.sleep(_CHECK_S)
        options = StemSeparationOptions(model=MODEL, quality=Quality.BALANCED)
        with tempfile.TemporaryDirectory(prefix="stemify-sample-") as folder:
            song = Path(folder) / _FILENAME
            await _generate(song)
            return await self._service.submit(Submission(upload_of(song), options, owner=OWNER))

    async def _is_idle(self) -> bool:
        snapshot = await self._service.snapshot()
        return MODEL in snapshot.usable_models and not snapshot.jobs.get(JobStatus.PENDING)


async def _generate(path: Path) -> None:
    """Write the song in a child process, which takes seconds of computing."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "engine.synth", str(path), env=computing_environment(), cwd=Path(__file__).parents[2]
    )
    try:
        if status := await child.wait():
            raise InternalError(detail=f"engine.synth exited with {status}")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
