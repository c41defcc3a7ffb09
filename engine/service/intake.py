"""Turns a request into a stored job: receive, probe, check limits, store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import aiohttp
import aiosqlite

from config.proxies import proxy_for
from config.settings import Settings
from engine.database.job_store import JobStore, retry_statuses
from engine.database.queue_limits import QueueLimits
from engine.database.quota import Quota
from engine.errors import (
    AlreadyAccepted,
    InvalidState,
    LinksDisabled,
    ModelUnavailable,
    StemifyError,
    StorageFailed,
    TooLarge,
)
from engine.jobs.entity import new_job_id
from engine.jobs.estimates import estimate_s, first_guess, plan_cost
from engine.jobs.job import InputType, Job, JobStatus
from engine.jobs.options import StemSeparationOptions
from engine.media.decode import Probe
from engine.media.limits import MediaLimits
from engine.media.sandbox import probe_in_sandbox
from engine.pool.pool import WorkerPool
from engine.service.admission import Admission, Ticket
from engine.service.submission import Attachment, Link, Submission, Upload
from engine.sources.attachment import fetch_attachment
from engine.sources.youtube.downloader import Youtube
from engine.sources.youtube.link import parse_link
from engine.storage.storage import Storage
from engine.text import safe_title

log = logging.getLogger(__name__)

_GUESSED_LINK_S = 240.0  # assumed length of a song that has not been downloaded


class Intake:
    def __init__(
        self,
        store: JobStore,
        quota: Quota,
        admission: Admission,
        storage: Storage,
        pool: WorkerPool,
        youtube: Youtube,
        settings: Settings,
        media: MediaLimits,
        queue_limits: QueueLimits,
        http: aiohttp.ClientSession,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._quota = quota
        self._admission = admission
        self._storage = storage
        self._pool = pool
        self._youtube = youtube
        self._settings = settings
        self._media = media
        self._queue_limits = queue_limits
        self._http = http
        self._now = now

    def upload(
        self, owner: str, scope: str | None = None, size_bytes: int | None = None
    ) -> AbstractAsyncContextManager[Ticket]:
        """Admit an upload before its first byte is read. Raises what `Admission.upload` raises."""
        return self._admission.upload(owner, scope, min(size_bytes or self._max_bytes, self._max_bytes))

    @property
    def _max_bytes(self) -> int:
        return self._media.max_bytes

    async def accept(self, submission: Submission, ticket: Ticket | None = None) -> Job:
        """Store a job for the request. `ticket`: of an upload that has already been admitted.

        Raises `InputRefused`, `RetryLater` or `ModelUnavailable`, leaving no files and no quota spent.
        """
        self._check_model(submission.options.model)
        source, owner, scope = submission.source, submission.owner, submission.scope
        if isinstance(source, Link):
            await self._admission.check(owner, scope)
            return await self._accept(submission, None)
        if source.declared_bytes is not None and source.declared_bytes > self._max_bytes:
            raise TooLarge.over(self._max_bytes, source.declared_bytes)
        async with AsyncExitStack() as stack:
            if ticket is None:
                admit = self._admission.upload if isinstance(source, Upload) else self._admission.attachment
                ticket = await stack.enter_async_context(admit(owner, scope, source.declared_bytes or self._max_bytes))
            return await self._accept(submission, ticket)

    async def _accept(self, submission: Submission, ticket: Ticket | None) -> Job:
        job_id = submission.job_id or new_job_id(self._now())
        if submission.job_id and await self._store.get(job_id) is not None:
            raise AlreadyAccepted
        adding: asyncio.Future[None] | None = None
        try:
            if isinstance(submission.source, Link):
                job = await self._job_of_link(job_id, submission, submission.source)
            else:
                assert ticket is not None
                job = await self._job_of_file(job_id, submission, submission.source, ticket)
            # Queue limits, quota and job in one transaction.
            adding = asyncio.ensure_future(
                self._store.add(job, self._queue_limits, also=self._quota.spend_in(job.owner))
            )
            await asyncio.shield(adding)
        except BaseException as error:
            if ticket is not None:
                await asyncio.shield(self._count_refusal(ticket, error))
            await self._discard(job_id, adding)
            raise
        return job

    async def _count_refusal(self, ticket: Ticket, error: BaseException) -> None:
        try:
            await self._admission.refused(ticket, error)
        except StemifyError as problem:  # report the original error
            log.warning(
                "could not count a refused file",
                extra={"owner": ticket.owner, "reason": problem.detail or problem.message},
            )

    async def retry(self, old: Job, new_id: str | None, model: str | None = None) -> Job:
        """Store a new job with the input and options of a failed one, optionally with another `model`.

        Three retries a day of one root job are free; more, and retries of a cancelled job, count toward the quota.
        Raises `InvalidState`, `QueueFull`, `QuotaExceeded`, `DiskSpaceLow`, `UnknownModel`, `ModelUnavailable`.
        """
        if old.status is not JobStatus.FAILED:
            raise InvalidState("Only a failed job can be retried.")
        options = old.options
        if model is not None:
            options = StemSeparationOptions.from_user(**old.options.model_dump(exclude={"model"}), model=model)
        self._check_model(options.model)
        await self._admission.check(old.owner, old.scope, retry=True)
        root_id = await self._root_of(old)
        job_id, now = new_id or new_job_id(self._now()), self._now()
        source = old.input_source
        if old.input_type is InputType.FILE_UPLOAD:
            source = f"jobs/{job_id}/input"
            if not await self._storage.copy(old.input_source, source):
                raise InvalidState("The file of this job is no longer available. Send it again.")
        kept = old.model_dump(
            exclude={"status", "progress", "error", "error_code", "actual_duration", "attempt", "stage"}
        )
        initial = {"id": job_id, "status": JobStatus.PENDING, "created_at": now, "updated_at": now}
        chosen = {"model": options.model, "options": options}
        duration = {"estimated_duration": await self._estimated_s(options, old.input_duration)}
        job = Job.model_validate({**kept, **initial, **chosen, **duration, "input_source": source, "retry_of": root_id})
        adding = asyncio.ensure_future(
            self._store.add(job, self._queue_limits, also=self._reject_second_retry(old, root_id))
        )
        try:
            await asyncio.shield(adding)
        except BaseException:
            await self._discard(job_id, adding)
            raise
        return job

    async def _discard(self, job_id: str, adding: asyncio.Future[None] | None) -> None:
        """Delete the files of a refused request, unless its job was stored.

        A client that disconnects while the job is stored leaves a valid job.
        """
        if adding is not None:
            await asyncio.wait([adding])
            if not adding.cancelled() and adding.exception() is None:
                return
        try:
            await asyncio.shield(self._storage.delete_job(job_id))
        except StorageFailed as error:  # report the original error; the sweeper cleans up
            log.warning(
                "could not delete a refused request", extra={"job": job_id, "reason": error.detail or error.message}
            )

    async def _root_of(self, old: Job) -> str:
        """Return the id of the job that was retried first, whether or not it still exists."""
        root_id, parent = old.id, old.retry_of
        seen = {root_id}
        while parent is not None and parent not in seen:
            seen.add(root_id := parent)
            job = await self._store.get(root_id)
            parent = job.retry_of if job is not None else None
        return root_id

    def _reject_second_retry(self, old: Job, root_id: str) -> Callable[[aiosqlite.Connection], Awaitable[None]]:
        """Return a check for the transaction that stores a retry: one at a time per root, free unless cancelled."""

        async def check(writer: aiosqlite.Connection) -> None:
            statuses = await retry_statuses(writer, old.owner, root_id)
            if len(statuses) > 1:  # including the new one
                if JobStatus.COMPLETED in statuses:
                    raise InvalidState("This job was already retried successfully. Submit the song again.")
                raise InvalidState("This job is already being retried.")
            spending = self._quota.spend_in(old.owner)
            await (spending if old.was_cancelled else self._quota.retry_in(old.owner, root_id))(writer)

        return check

    def _check_model(self, name: str) -> None:
        state = self._pool.models.get(name)
        if state is not None and state.state == "unavailable":
            raise ModelUnavailable(f"The model {name} cannot be used here: {state.reason}")

    async def _job_of_link(self, job_id: str, submission: Submission, link: Link) -> Job:
        video = parse_link(link.text)
        if not self._settings.youtube.enabled:
            raise LinksDisabled
        self._youtube.check_open()
        return await self._new_job(
            job_id, submission, InputType.YOUTUBE_URL, video.url, title=f"YouTube {video.video_id}"
        )

    async def _job_of_file(
        self, job_id: str, submission: Submission, source: Upload | Attachment, ticket: Ticket
    ) -> Job:
        key = f"jobs/{job_id}/input"
        media, options = self._media, submission.options
        if isinstance(source, Upload):
            stream = source.stream
        else:
            stream = fetch_attachment(
                self._http,
                source.url,
                allowed_hosts=self._settings.discord.cdn_hosts,
                max_bytes=media.max_bytes,
                proxy_for=lambda url: proxy_for(url, self._settings.discord.proxy_url),
            )
        size_bytes = await self._storage.receive(stream, key, media.max_bytes, ticket.spend)
        if isinstance(source, Upload) and source.late_options is not None:
            options = await source.late_options()
            self._check_model(options.model)
        await ticket.received()
        async with self._admission.probing(ticket):
            found: Probe = await probe_in_sandbox(self._storage.local_path(key), media)
        await self._storage.upload(key)
        return await self._new_job(
            job_id,
            replace(submission, options=options),
            InputType.FILE_UPLOAD,
            key,
            title=safe_title(found.title or Path(source.filename).stem),
            artist=found.artist,
            input_size=size_bytes,
            duration_s=found.duration_s,
        )

    async def _new_job(
        self,
        job_id: str,
        submission: Submission,
        input_type: InputType,
        input_source: str,
        *,
        title: str,
        artist: str | None = None,
        input_size: int = 0,
        duration_s: float | None = None,
    ) -> Job:
        options, now = submission.options, self._now()
        return Job(
            id=job_id,
            status=JobStatus.PENDING,
            created_at=now,
            updated_at=now,
            input_type=input_type,
            input_source=input_source,
            model=options.model,
            options=options,
            estimated_duration=await self._estimated_s(options, duration_s),
            owner=submission.owner,
            scope=submission.scope,
            place=submission.place,
            title=title,
            artist=artist,
            input_size=input_size,
            input_duration=duration_s,
        )

    async def _estimated_s(self, options: StemSeparationOptions, duration_s: float | None) -> int:
        device = self._pool.device
        speed = await self._store.speed(options.model, options.quality, device)
        speed = (speed or first_guess(options.model, options.quality, device)) * plan_cost(options)
        return estimate_s(speed, duration_s or _GUESSED_LINK_S)
