"""Delete jobs together with the messages about them.

A job is marked as `DELETING` first, so a restart resumes the deletion.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence

import discord

from bot.cards import deleted_card
from bot.database import BotDatabase, JobMessage, JobMessageState
from bot.messages import FailureKind, Messenger, classify_failure, retry_on_disconnect
from bot.progress import ProgressTracker
from engine.errors import NotFound, StemifyError
from engine.jobs.job import JobView
from engine.service.service import StemService

log = logging.getLogger(__name__)


class JobDeleter:
    """Deletes jobs at once, and their messages in the background."""

    def __init__(
        self, database: BotDatabase, messages: Messenger, service: StemService, progress: ProgressTracker
    ) -> None:
        self._database = database
        self._messages = messages
        self._service = service
        self._progress = progress
        self._tasks: set[asyncio.Task[None]] = set()

    async def delete(self, view: JobView) -> None:
        """Delete a job, cancelling it first if it has not ended. Raises the service's errors."""
        job_message = await self._database.job_message(view.job.id)
        if job_message is not None:
            await self._database.set_state(view.job.id, JobMessageState.DELETING)
        await self._progress.unfollow(view.job.id)
        await self._service.delete(view.job.id, by=view.job.owner)
        self._start(self._delete_messages([job_message] if job_message is not None else []))

    async def delete_all(self, user_id: int, owner: str) -> int:
        """Delete all of a user's jobs, archived ones included, and return their number. Raises the service's errors."""
        job_messages = await self._database.job_messages_of(user_id)
        for job_message in job_messages:
            await self._database.set_state(job_message.job_id, JobMessageState.DELETING)
            await self._progress.unfollow(job_message.job_id)
        deleted = await self._service.delete_all(owner)
        self._start(self._delete_messages(job_messages))
        return deleted

    def resume(self, job_messages: Sequence[JobMessage]) -> None:
        """Continue deletions that a restart interrupted."""
        self._start(self._resume(job_messages))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="deletion")
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("could not delete all messages of a deleted job", exc_info=error)

    async def _resume(self, job_messages: Sequence[JobMessage]) -> None:
        for job_message in job_messages:
            try:
                view = await self._service.get(job_message.job_id)
                await self._service.delete(job_message.job_id, by=view.job.owner)
            except NotFound:  # already deleted before the restart
                pass
            except StemifyError as error:
                log.warning(
                    "could not delete the job, will retry at next start",
                    extra={"job": job_message.job_id, "reason": error.detail or error.message},
                )
                continue
            await self._delete_messages([job_message])

    async def _delete_messages(self, job_messages: Sequence[JobMessage]) -> None:
        """Delete what was posted about deleted jobs; after a transient failure, retry at the next start."""
        for job_message in job_messages:
            try:
                await self._delete_posts(job_message)
            except Exception as error:
                if classify_failure(error) is FailureKind.TRANSIENT:
                    log.warning(
                        "could not delete the job's messages, will retry at next start",
                        extra={"job": job_message.job_id, "reason": error},
                    )
                    continue
                log.info("could not delete a message of the job", extra={"job": job_message.job_id, "reason": error})
            await self._database.delete(job_message.job_id)

    async def _delete_posts(self, job_message: JobMessage) -> None:
        """Delete announcement and mixes, and turn the card into a deleted one. Raises transient failures only."""
        for part in (await self._database.announcement_parts(job_message.job_id)).values():
            if part.channel_id is not None and part.message_id is not None:
                message = self._messages.message(part.channel_id, part.message_id)
                await _ignore_permanent_failures(message.delete)
        for channel_id, message_id in (await self._database.mix_messages(job_message.job_id)).values():
            await _ignore_permanent_failures(self._messages.message(channel_id, message_id).delete)
        if job_message.message_id is not None:
            await self._messages.wait_for_edit_slot(job_message)
            await _ignore_permanent_failures(lambda: self._messages.show(job_message, deleted_card()))


async def _ignore_permanent_failures(call: Callable[[], Awaitable[None]]) -> None:
    try:
        await retry_on_disconnect(call)
    except discord.HTTPException as error:
        if classify_failure(error) is FailureKind.TRANSIENT:
            raise
