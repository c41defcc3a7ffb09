"""Turns a request into a stored job: receive, probe, check limits, store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import aiohttp
import aiosqlite

from config.proxies import proxy_for
from config.settings import Settings
from engine.database.database import Step
from engine.database.job_store import JobStore
from engine.database.quota import Allowance, Quota
from engine.database.request_keys import RequestKeys
from engine.errors import (
    AlreadyAccepted,
    LinksDisabled,
    StemifyError,
    TooLarge,
)
from engine.jobs.entity import new_job_id
from engine.jobs.job import InputType, Job, JobStatus
from engine.jobs.options import StemSeparationOptions
from engine.media.decode import Probe
from engine.media.limits import MediaLimits
from engine.media.sandbox import probe_in_sandbox
from engine.service.acceptance import Acceptance
from engine.service.admission import Admission, Ticket
from engine.service.errors import KeyReused, TooShort
from engine.service.submission import Attachment, Link, RequestDigest, Submission, Upload
from engine.sources.attachment import fetch_attachment
from engine.sources.youtube.downloader import Youtube
from engine.sources.youtube.link import parse_link
from engine.storage.storage import Storage
from engine.text import safe_title

log = logging.getLogger(__name__)


class Intake:
    def __init__(
        self,
        store: JobStore,
        quota: Quota,
        admission: Admission,
        acceptance: Acceptance,
        storage: Storage,
        youtube: Youtube,
        settings: Settings,
        media: MediaLimits,
        http: aiohttp.ClientSession,
        keys: RequestKeys,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._quota = quota
        self._admission = admission
        self._acceptance = acceptance
        self._storage = storage
        self._youtube = youtube
        self._settings = settings
        self._media = media
        self._http = http
        self._keys = keys
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
        self._acceptance.check_models(submission.options)
        source, owner, scope = submission.source, submission.owner, submission.scope
        if isinstance(source, Link):
            return await self._accept_link(submission, source)
        if source.declared_bytes is not None and source.declared_bytes > self._max_bytes:
            raise TooLarge.over(self._max_bytes, source.declared_bytes, source.filename)
        async with AsyncExitStack() as stack:
            if ticket is None:
                admit = self._admission.upload if isinstance(source, Upload) else self._admission.attachment
                ticket = await stack.enter_async_context(admit(owner, scope, source.declared_bytes or self._max_bytes))
            return await self._accept_file(submission, source, ticket)

    async def _accept_link(self, submission: Submission, link: Link) -> Job:
        """Store a job for a link, without a check of the quota if its video was separated before."""
        await self._admission.check(submission.owner, submission.scope, free=True)
        job = await self._job_of_link(await self._new_id(submission), submission, link)
        noting = self._note_key(submission, job, RequestDigest())
        if (repeat := await self._acceptance.repeat(job, job.input_source, also=noting)) is not None:
            return repeat
        await self._admission.check(submission.owner, submission.scope)
        self._youtube.check_open()
        return await self._enqueue(job, noting)

    async def _accept_file(self, submission: Submission, source: Upload | Attachment, ticket: Ticket) -> Job:
        job_id, digest = await self._new_id(submission), RequestDigest()
        try:
            try:
                job, audio_hash = await self._job_of_file(job_id, submission, source, ticket, digest)
            except BaseException:
                await self._acceptance.discard(job_id)
                raise
            noting = self._note_key(submission, job, digest)
            if (repeat := await self._acceptance.repeat(job, audio_hash, also=noting)) is not None:
                return repeat
            return await self._enqueue(job, noting)
        except BaseException as error:
            await asyncio.shield(self._count_refusal(ticket, error))
            raise

    async def _enqueue(self, job: Job, noting: Step) -> Job:
        spending = self._quota.spend_in(job.owner, job.id)

        async def both(writer: aiosqlite.Connection) -> None:
            await noting(writer)
            await spending(writer)

        return await self._acceptance.enqueue(job, also=both)

    def _note_key(self, submission: Submission, job: Job, digest: RequestDigest) -> Step:
        """Return the step that records the idempotency key of a request, if it has one."""

        async def nothing(_writer: aiosqlite.Connection) -> None:
            pass

        if submission.key is None:
            return nothing
        return self._keys.add_in(job.owner, submission.key, digest.of(submission.source, job.options), job.id)

    async def has_request(self, owner: str, key: str) -> bool:
        """Return whether the owner has created a job with this key in the last day."""
        return await self._keys.find(owner, key) is not None

    async def submitted(self, submission: Submission) -> str | None:
        """Return the id of the job that an earlier request with the same key created, or None.

        The file is read and compared, but not stored. Raises `KeyReused` if this request differs.
        """
        assert submission.key is not None
        earlier = await self._keys.find(submission.owner, submission.key)
        if earlier is None:
            return None
        source, options, digest = submission.source, submission.options, RequestDigest()
        if isinstance(source, Upload):
            async for _ in digest.pass_on(source.stream):
                pass
            options = await source.late_options() if source.late_options is not None else options
        if digest.of(source, options) != earlier.digest:
            raise KeyReused
        return earlier.job_id

    async def estimated_s(self, options: StemSeparationOptions, duration_s: float) -> int:
        """Return the expected seconds of a job, from the learned speeds."""
        return await self._acceptance.estimated_s(options, duration_s)

    async def allowance(self, owner: str) -> Allowance | None:
        """Return how many jobs the owner may still start; None: there is no limit."""
        return await self._quota.allowance(owner)

    async def _new_id(self, submission: Submission) -> str:
        """Return the id of a new job. Raises `AlreadyAccepted`."""
        if submission.job_id and await self._store.get(submission.job_id) is not None:
            raise AlreadyAccepted
        return submission.job_id or new_job_id(self._now())

    async def _count_refusal(self, ticket: Ticket, error: BaseException) -> None:
        try:
            await self._admission.refused(ticket, error)
        except StemifyError as problem:  # report the original error
            log.warning(
                "could not count a refused file",
                extra={"owner": ticket.owner, "reason": problem.detail or problem.message},
            )

    async def _job_of_link(self, job_id: str, submission: Submission, link: Link) -> Job:
        video = parse_link(link.text)
        if not self._settings.youtube.enabled:
            raise LinksDisabled
        return await self._new_job(
            job_id, submission, InputType.YOUTUBE_URL, video.url, title=f"YouTube {video.video_id}"
        )

    async def _job_of_file(
        self,
        job_id: str,
        submission: Submission,
        source: Upload | Attachment,
        ticket: Ticket,
        digest: RequestDigest,
    ) -> tuple[Job, str]:
        """Receive and examine the file; return its job and the hash of its samples."""
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
        if submission.key is not None:
            stream = digest.pass_on(stream)
        size_bytes = await self._storage.receive(stream, key, media.max_bytes, ticket.spend)
        if isinstance(source, Upload) and source.late_options is not None:
            options = await source.late_options()
            self._acceptance.check_models(options)
        await ticket.received()
        async with self._admission.probing(ticket):
            found: Probe = await probe_in_sandbox(self._storage.local_path(key), media)
        if found.duration_s < submission.min_duration_s:
            raise TooShort
        await self._storage.upload(key)
        job = await self._new_job(
            job_id,
            replace(submission, options=options),
            InputType.FILE_UPLOAD,
            key,
            title=safe_title(found.title or Path(source.filename).stem),
            artist=found.artist,
            input_size=size_bytes,
            duration_s=found.duration_s,
        )
        return job, found.audio_hash

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
            estimated_duration=await self._acceptance.estimated_s(options, duration_s),
            owner=submission.owner,
            scope=submission.scope,
            place=submission.place,
            title=title,
            artist=artist,
            input_size=input_size,
            input_duration=duration_s,
        )
