"""Delete jobs together with the messages about them.

A job is marked as `DELETING` first, so a restart resumes the deletion.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress

import discord

from bot.cards.job_card import deleted_card
from bot.database.database import BotDatabase, JobMessage, JobMessageState, message_url
from bot.messages.messenger import FailureKind, Messenger, classify_failure
from bot.progress.tracker import ProgressTracker
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
        self._tasks: set[asyncio.Task[list[str]]] = set()

    async def delete(self, view: JobView) -> asyncio.Task[list[str]]:
        """Delete a job, cancelling it first if it has not ended. Raises the service's errors.

        The task deletes the job's messages, and returns links to the remaining ones.
        """
        job_message = await self._database.job_message(view.job.id)
        if job_message is not None:
            await self._database.set_state(view.job.id, JobMessageState.DELETING)
            await self._progress.unfollow(job_message)
        await self._service.delete(view.job.id, by=view.job.owner)
        return self._start(self._delete_messages([job_message] if job_message is not None else []))

    async def delete_batch(self, job_message: JobMessage) -> asyncio.Task[list[str]]:
        """Delete a batch with its songs, as `delete` does."""
        self._progress.cancel_submission(job_message.job_id)
        songs = await self._database.batches.songs(job_message.job_id)
        stored = list((await self._database.job_messages(song.job_id for song in songs)).values())
        job_messages = [*stored, job_message]
        for each in job_messages:
            await self._database.set_state(each.job_id, JobMessageState.DELETING)
            await self._progress.unfollow(each)
        for each in stored:
            with suppress(NotFound):
                await self._service.delete(each.job_id, by=each.owner)
        return self._start(self._delete_messages(job_messages))

    async def end(self, job_message: JobMessage) -> None:
        """Delete an unfinished job or batch whose message or song was deleted. Raises the service's errors."""
        if job_message.is_batch:
            await self.delete_batch(job_message)
        else:
            await self.delete(await self._service.get(job_message.job_id))

    async def delete_all(self, user_id: int, owner: str) -> tuple[int, asyncio.Task[list[str]]]:
        """Delete all of a user's jobs, archived ones included; return their number and a task as `delete` does.

        Raises the service's errors.
        """
        job_messages = await self._database.job_messages_of(user_id)
        for job_message in job_messages:
            await self._database.set_state(job_message.job_id, JobMessageState.DELETING)
            await self._progress.unfollow(job_message)
        deleted = await self._service.delete_all(owner)
        await self._database.servers.delete_jobs_of(user_id)
        return deleted, self._start(self._delete_messages(job_messages))

    def resume(self, job_messages: Sequence[JobMessage]) -> None:
        """Continue deletions that a restart interrupted."""
        self._start(self._resume(job_messages))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, list[str]]) -> asyncio.Task[list[str]]:
        task = asyncio.create_task(work, name="deletion")
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[list[str]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("could not delete all messages of a deleted job", exc_info=error)

    async def _resume(self, job_messages: Sequence[JobMessage]) -> list[str]:
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
        return []

    async def _delete_messages(self, job_messages: Sequence[JobMessage]) -> list[str]:
        """Delete what was posted about deleted jobs, and return links to the remaining ones.

        After a transient failure, retry at the next start.
        """
        left: list[str] = []
        for job_message in job_messages:
            try:
                left += await self._delete_posts(job_message)
            except Exception as error:
                if classify_failure(error) is FailureKind.TRANSIENT:
                    log.warning(
                        "could not delete the job's messages, will retry at next start",
                        extra={"job": job_message.job_id, "reason": error},
                    )
                    continue
                log.info("could not delete a message of the job", extra={"job": job_message.job_id, "reason": error})
            await self._database.delete(job_message.job_id)
            if job_message.batch_id is not None:
                await self._show_batch(job_message.batch_id)
        return left

    async def _delete_posts(self, job_message: JobMessage) -> list[str]:
        """Delete announcement and mixes, and turn the card into a deleted one; return links to the remaining messages.

        Raises transient failures only.
        """
        parts = (await self._database.announcement_parts(job_message.job_id)).values()
        posts = [(part.channel_id, part.message_id) for part in parts]
        posts += (await self._database.mix_messages(job_message.job_id)).values()
        left = []
        for channel_id, message_id in posts:
            if channel_id is None or message_id is None:
                continue
            if not await self._messages.delete(job_message, channel_id, message_id):
                left.append(message_url(job_message, channel_id, message_id))
        if job_message.message_id is not None and job_message.batch_id is None:
            await self._messages.wait_for_edit_slot(job_message)
            try:
                await self._messages.show_without_files(job_message, deleted_card())
            except discord.HTTPException as error:
                kind = classify_failure(error)
                if kind is FailureKind.TRANSIENT:
                    raise
                if kind is not FailureKind.GONE:
                    left.append(job_message.url or "")
        return left

    async def _show_batch(self, batch_id: str) -> None:
        batch = await self._database.job_message(batch_id)
        if batch is not None and batch.state is not JobMessageState.DELETING:
            with suppress(discord.HTTPException):
                await self._progress.show_batch(batch)
