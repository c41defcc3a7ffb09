"""Follow the messages of all jobs that have not been announced, also across restarts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import discord

from bot.announcement.announcer import Announcer
from bot.cards.job_card import never_accepted_card
from bot.cards.text import NEVER_ACCEPTED
from bot.database.database import BotDatabase, JobMessage, JobMessageState
from bot.messages.messenger import FailureKind, Messenger, classify_failure, retry_on_disconnect
from bot.progress.batch_updater import BatchUpdater
from bot.progress.message_updater import MessageUpdater
from engine.errors import NotFound
from engine.service.service import StemService

log = logging.getLogger(__name__)


class ProgressTracker:
    """Runs a `MessageUpdater` for each job that has not been announced."""

    def __init__(
        self,
        database: BotDatabase,
        messages: Messenger,
        service: StemService,
        announcer: Announcer,
        *,
        edit_interval_s: float,
    ) -> None:
        self._database = database
        self._messages = messages
        self._service = service
        self._announcer = announcer
        self._edit_interval_s = edit_interval_s
        self._updaters: dict[str, MessageUpdater | BatchUpdater] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def follow(self, job_message: JobMessage) -> None:
        """Keep this message current, unless that is already being done."""
        if job_message.is_batch:
            self.follow_batch(job_message)
        else:
            self._start(job_message.job_id, MessageUpdater(*self._parts(job_message)))

    def follow_batch(self, job_message: JobMessage, *, is_submitting: bool = False) -> BatchUpdater:
        """Keep the message of a batch current; `is_submitting`: until `end_submission`, songs are added."""
        updater = BatchUpdater(*self._parts(job_message), is_submitting=is_submitting)
        self._start(job_message.job_id, updater)
        return updater

    def _parts(
        self, job_message: JobMessage
    ) -> tuple[JobMessage, BotDatabase, Messenger, StemService, Announcer, float]:
        return (
            job_message, self._database, self._messages, self._service, self._announcer, self._edit_interval_s,
        )  # fmt: skip

    def _start(self, job_id: str, updater: MessageUpdater | BatchUpdater) -> None:
        if job_id in self._tasks:
            return
        task = asyncio.create_task(updater.run(), name=f"follow {job_id}")
        self._updaters[job_id], self._tasks[job_id] = updater, task
        task.add_done_callback(lambda task: self._on_done(job_id, task))

    def _on_done(self, job_id: str, task: asyncio.Task[None]) -> None:
        self._updaters.pop(job_id, None)
        self._tasks.pop(job_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("updating the job's message failed", exc_info=error, extra={"job": job_id})

    def refresh_token(self, job_id: str, token: str, token_until: float) -> bool:
        """Use a new token for the job's message; return whether the message is being followed."""
        updater = self._updaters.get(job_id)
        if updater is not None:
            updater.refresh_token(token, token_until)
        return updater is not None

    async def resume(self, unfinished: Iterable[JobMessage]) -> None:
        """Follow messages that a restart or a long outage of Discord left unfinished."""
        submitting = []
        for job_message in unfinished:
            if job_message.batch_id is not None:
                continue  # the batch follows its songs
            if job_message.state is JobMessageState.SUBMITTING and not job_message.is_batch:
                submitting.append(job_message)
            else:
                self.follow(job_message)
        for job_message in submitting:
            try:
                await self._resume_submission(job_message)
            except Exception:
                log.exception(
                    "could not check whether the job was accepted, will retry at next start",
                    extra={"job": job_message.job_id},
                )

    async def _resume_submission(self, job_message: JobMessage) -> None:
        """Follow a job that was being submitted at a restart, or show that it was not accepted."""
        try:
            await self._service.get(job_message.job_id)
        except NotFound:
            if job_message.message_id is not None:
                await self._show_never_accepted(job_message)
            await self._database.delete(job_message.job_id)
            await self._database.servers.delete_job(job_message.job_id)
        else:
            await self._database.set_state(job_message.job_id, JobMessageState.FOLLOWING)
            self.follow(replace(job_message, state=JobMessageState.FOLLOWING))

    async def _show_never_accepted(self, job_message: JobMessage) -> None:
        try:
            if self._messages.has_token(job_message) and job_message.original:
                await self._answer_privately(job_message, NEVER_ACCEPTED)
            else:
                await self._messages.show(job_message, never_accepted_card())
        except discord.HTTPException as error:
            if classify_failure(error) is FailureKind.TRANSIENT:
                raise
            log.info("could not show that the job was not accepted", extra={"job": job_message.job_id, "reason": error})

    async def _answer_privately(self, job_message: JobMessage, text: str) -> None:
        """Replace the deferred public answer by a private one. Raises Discord's errors."""
        webhook, original = self._messages.webhook(job_message), cast("int", "@original")
        try:
            await retry_on_disconnect(lambda: webhook.delete_message(original))
        except discord.HTTPException as error:
            if classify_failure(error) is not FailureKind.GONE:  # deleted before another restart
                raise
        await retry_on_disconnect(lambda: webhook.send(text, ephemeral=True), repeatable=False)

    async def unfollow(self, job_message: JobMessage) -> None:
        """Stop following a job or a batch; once this returns, nothing more is shown or announced."""
        batch = self._updaters.get(job_message.batch_id or "")
        if isinstance(batch, BatchUpdater):
            await batch.unfollow_song(job_message.job_id)
        if job_message.is_batch:
            self.cancel_submission(job_message.job_id)
        task = self._tasks.get(job_message.job_id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def cancel_submission(self, batch_id: str) -> None:
        """Submit no more songs of a batch."""
        batch = self._updaters.get(batch_id)
        if isinstance(batch, BatchUpdater):
            batch.cancel()

    async def show_batch(self, job_message: JobMessage) -> None:
        """Show the current state of a batch's songs, unless it is followed. Raises Discord's errors."""
        if job_message.job_id not in self._updaters:
            await BatchUpdater(*self._parts(job_message)).show_once()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
