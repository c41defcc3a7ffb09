"""Deleting a job with all that was posted about it, or everything that somebody has; and forgetting what is long over.

What is to go is written down first: a restart in the middle goes on where it was (`JobDeleter.take_up`).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING

import discord

from bot.cards import deleted_card
from bot.database import JobMessage, JobMessageState
from bot.messages import FailureKind, classify_failure, retry_on_disconnect
from engine.errors import NotFound, StemifyError
from engine.jobs.job import JobView

if TYPE_CHECKING:
    from bot.app import Stemify

log = logging.getLogger(__name__)

_FORGET_INTERVAL_S = 86_400.0
_BATCH_SIZE = 200


class JobDeleter:
    def __init__(self, bot: Stemify) -> None:
        self._bot = bot
        self._tasks: set[asyncio.Task[None]] = set()

    async def job(self, view: JobView) -> None:
        """Cancel it if need be and delete it now; its messages go in the background. Raises what the service
        raises."""
        posting = await self._bot.memory.job_message(view.job.id)
        if posting is not None:
            await self._bot.memory.set_state(view.job.id, JobMessageState.DELETING)
        await self._bot.progress.unfollow(view.job.id)
        await self._bot.service.delete(view.job.id, by=view.job.owner)
        self._clean([posting] if posting is not None else [])

    async def everything(self, user_id: int, owner: str) -> int:
        """All jobs of a user, archived ones too; how many there were. Raises what the service raises."""
        postings = await self._bot.memory.job_messages_of(user_id)
        for posting in postings:
            await self._bot.memory.set_state(posting.job_id, JobMessageState.DELETING)
            await self._bot.progress.unfollow(posting.job_id)
        deleted = await self._bot.service.delete_all(owner)
        self._clean(postings)
        return deleted

    def take_up(self, postings: Sequence[JobMessage]) -> None:
        """Go on with what an earlier run of the bot had begun to delete."""
        if postings:
            self._begin(self._resumed(postings))

    def forget_old_ones(self) -> None:
        """From now on, once a day."""
        self._begin(self._forget())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _clean(self, postings: Sequence[JobMessage]) -> None:
        if postings:
            self._begin(self._clean_up(postings))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="removal")
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("what was posted could not all be removed", exc_info=error)

    async def _resumed(self, postings: Sequence[JobMessage]) -> None:
        for posting in postings:
            try:
                view = await self._bot.service.get(posting.job_id)
                await self._bot.service.delete(posting.job_id, by=view.job.owner)
            except NotFound:  # that far it had come
                pass
            except StemifyError as error:
                log.warning("job %s is deleted at the next start: %s", posting.job_id, error.detail or error.message)
                continue
            await self._clean_up([posting])

    async def _clean_up(self, postings: Sequence[JobMessage]) -> None:
        """What cannot be reached just now is tried again at the next start."""
        for posting in postings:
            try:
                await self._remove_posts(posting)
            except Exception as error:
                if classify_failure(error) is FailureKind.TRANSIENT:
                    log.warning("job %s is deleted, its messages are removed later: %s", posting.job_id, error)
                    continue
                log.info("job %s is deleted, a message of it could not be removed: %s", posting.job_id, error)
            await self._bot.memory.forget(posting.job_id)

    async def _remove_posts(self, posting: JobMessage) -> None:
        """The messages with the stems go; the card says that the job was deleted. Raises what is worth another
        try."""
        for delivery in (await self._bot.memory.deliveries(posting.job_id)).values():
            if delivery.channel_id is not None and delivery.message_id is not None:
                channel = self._bot.get_partial_messageable(delivery.channel_id)
                await _where_possible(channel.get_partial_message(delivery.message_id).delete)
        if posting.message_id is not None:
            await self._bot.wire.wait_for_edit_slot(posting)
            await _where_possible(lambda: self._bot.wire.show(posting, deleted_card()))

    async def _forget(self) -> None:
        while True:
            try:
                await self.forget_once()
            except (StemifyError, sqlite3.Error) as error:
                log.warning("what is long over is forgotten another day: %s", error)
            await asyncio.sleep(_FORGET_INTERVAL_S)

    async def forget_once(self) -> None:
        """Drop the bot's own memory of jobs whose stems are gone: neither a list nor a button needs it any more."""
        before = self._bot.house.steady_now().timestamp() - self._bot.settings.retention.stems_days * 86_400
        while postings := await self._bot.memory.done_before(before, limit=_BATCH_SIZE):
            for posting in postings:
                if not await self._is_kept(posting.job_id):
                    await self._bot.memory.forget(posting.job_id)
            before = postings[-1].created_at
        await self._bot.memory.drop_dead_tokens()

    async def _is_kept(self, job_id: str) -> bool:
        try:
            return (await self._bot.service.get(job_id)).job.keep
        except NotFound:
            return False


async def _where_possible(call: Callable[[], Awaitable[None]]) -> None:
    """What stands in the way for good is no reason to stop."""
    try:
        await retry_on_disconnect(call)
    except discord.HTTPException as error:
        if classify_failure(error) is FailureKind.TRANSIENT:
            raise
