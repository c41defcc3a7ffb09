"""Makes a new job of the song of an earlier one: a retry of a failed job, another try of a completed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import aiosqlite

from engine.database.database import Step
from engine.database.job_store import JobStore
from engine.database.queue_limits import retry_statuses
from engine.database.quota import Quota
from engine.errors import InvalidState
from engine.jobs.entity import new_job_id
from engine.jobs.job import InputType, Job, JobStatus
from engine.jobs.options import StemSeparationOptions
from engine.service.acceptance import Acceptance
from engine.service.admission import Admission
from engine.service.errors import SongGone
from engine.storage.storage import Storage

_COPIED = (
    "input_type", "input_source", "owner", "scope", "place", "title", "artist", "input_size", "input_duration",
)  # fmt: skip


class Resubmission:
    def __init__(
        self,
        store: JobStore,
        quota: Quota,
        admission: Admission,
        acceptance: Acceptance,
        storage: Storage,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._quota = quota
        self._admission = admission
        self._acceptance = acceptance
        self._storage = storage
        self._now = now

    async def retry(self, old: Job, new_id: str | None, changes: Mapping[str, object]) -> Job:
        """Store a new job with the input of a failed one, and its options with `changes`.

        Three retries a day of one root job are free; more, and retries of a cancelled job, count toward the quota.
        Raises `InvalidState`, `QueueFull`, `QuotaExceeded`, `DiskSpaceLow`, `BadOptions`, `ModelUnavailable`.
        """
        if old.status is not JobStatus.FAILED:
            raise InvalidState("Only a failed job can be retried.")
        options = self._options(old, changes)
        await self._admission.check(old.owner, old.scope, free=True)
        root_id = await self._root_of(old)
        job = await self._new_job(old, new_id, options, retry_of=root_id)
        if old.input_type is InputType.FILE_UPLOAD:
            await self._copy_input(old, job)
        return await self._acceptance.enqueue(job, also=self._reject_second_retry(old, root_id, job.id))

    async def again(self, old: Job, new_id: str | None, changes: Mapping[str, object]) -> Job:
        """Store a new job with the kept song of a completed one, and its options with `changes`.

        It counts toward the quota unless its result exists already. A failed job is retried. A job after a comparison
        separates the whole song, unless `changes` has another comparison. Raises `SongGone`, and what `retry` raises.
        """
        if old.status is JobStatus.FAILED:
            if changes.get("comparison") is not None:
                raise InvalidState("This job has failed. Retry it, then compare models.")
            return await self.retry(old, new_id, changes)
        if old.result is None:
            raise InvalidState("This song is still being separated. Wait until it is done.")
        options = self._options(old, {"comparison": None, **changes})
        await self._admission.check(old.owner, old.scope, free=True)
        job = await self._new_job(old, new_id, options)
        await self._copy_input(old, job)
        audio = old.input_source if old.input_type is InputType.YOUTUBE_URL else old.result.audio_hash
        if (repeat := await self._acceptance.repeat(job, audio)) is not None:
            return repeat
        return await self._acceptance.enqueue(job, also=self._quota.spend_again_in(old.owner, old.id, job.id))

    async def has_song(self, job: Job) -> bool:
        """Whether the song of a job is still kept."""
        return await self._storage.size(f"jobs/{job.id}/input") is not None

    def _options(self, old: Job, changes: Mapping[str, object]) -> StemSeparationOptions:
        # By default (None) nothing changes, except for a comparison.
        chosen = {name: value for name, value in changes.items() if value is not None or name == "comparison"}
        options = StemSeparationOptions.from_user(**old.options.model_dump() | chosen)
        self._acceptance.check_models(options)
        return options

    async def _new_job(
        self, old: Job, new_id: str | None, options: StemSeparationOptions, *, retry_of: str | None = None
    ) -> Job:
        job_id, now = new_id or new_job_id(self._now()), self._now()
        values = {name: getattr(old, name) for name in _COPIED}
        if old.input_type is InputType.FILE_UPLOAD:
            values["input_source"] = f"jobs/{job_id}/input"
        return Job(
            **values,
            id=job_id,
            status=JobStatus.PENDING,
            created_at=now,
            updated_at=now,
            model=options.model,
            options=options,
            estimated_duration=await self._acceptance.estimated_s(options, old.input_duration),
            retry_of=retry_of,
        )

    async def _copy_input(self, old: Job, job: Job) -> None:
        """Copy the song to the new job. Raises `SongGone`."""
        try:
            if not await self._storage.copy(f"jobs/{old.id}/input", f"jobs/{job.id}/input"):
                raise SongGone
        except BaseException:
            await self._acceptance.discard(job.id)
            raise

    async def _root_of(self, old: Job) -> str:
        """Return the id of the job that was retried first, whether or not it still exists."""
        root_id, parent = old.id, old.retry_of
        seen = {root_id}
        while parent is not None and parent not in seen:
            seen.add(root_id := parent)
            job = await self._store.get(root_id)
            parent = job.retry_of if job is not None else None
        return root_id

    def _reject_second_retry(self, old: Job, root_id: str, job_id: str) -> Step:
        """Return a check for the transaction that stores a retry: one at a time per root, free unless cancelled."""

        async def check(writer: aiosqlite.Connection) -> None:
            statuses = await retry_statuses(writer.execute_fetchall, old.owner, root_id)
            if len(statuses) > 1:  # including the new one
                if JobStatus.COMPLETED in statuses:
                    raise InvalidState("This job was already retried successfully. Submit the song again.")
                raise InvalidState("This job is already being retried.")
            if old.was_cancelled:
                spending = self._quota.spend_in(old.owner, job_id)
            else:
                spending = self._quota.retry_in(old.owner, root_id, job_id)
            await spending(writer)

        return check
