"""One message a job, kept current until the job is over, also across restarts."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import discord

from bot.announcement import announce, nonce
from bot.cards import Card, deleted_card, job_card, never_accepted_card
from bot.database import JobMessage, JobMessageState
from bot.messages import FailureKind, classify_failure
from engine.errors import NotFound, StemifyError
from engine.jobs.job import JobView

if TYPE_CHECKING:
    from bot.app import Stemify

log = logging.getLogger(__name__)

RESUME_WINDOW = 3  # from this place in the queue on, a message is edited only every third interval
FINAL_PAUSES_S = (2.0, 5.0, 15.0, 60.0, 300.0, 900.0)


class ProgressTracker:
    """The followers of all jobs that are not over and announced."""

    def __init__(self, bot: Stemify) -> None:
        self._bot = bot
        self._followers: dict[str, MessageUpdater] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def follow(self, posting: JobMessage) -> None:
        if posting.job_id in self._tasks:
            return
        follower = MessageUpdater(self._bot, posting)
        task = asyncio.create_task(follower.run(), name=f"follow {posting.job_id}")
        self._followers[posting.job_id], self._tasks[posting.job_id] = follower, task
        task.add_done_callback(lambda done: self._over(posting.job_id, done))

    def _over(self, job_id: str, task: asyncio.Task[None]) -> None:
        self._followers.pop(job_id, None)
        self._tasks.pop(job_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job %s is no longer followed", job_id, exc_info=error)

    def refresh_token(self, job_id: str, token: str, token_until: float) -> bool:
        """A fresh token for the job's message; whether somebody follows it."""
        follower = self._followers.get(job_id)
        if follower is not None:
            follower.posting = replace(follower.posting, token=token, token_until=token_until, original=True)
            follower.show_again()
        return follower is not None

    async def resume(self, unfinished: Iterable[JobMessage]) -> None:
        """Pick up what an earlier run of the bot, or a long absence of Discord, left unfinished."""
        doubtful = []
        for posting in unfinished:
            if posting.state is JobMessageState.SUBMITTING:
                doubtful.append(posting)
            else:
                self.follow(posting)
        for posting in doubtful:
            try:
                await self._settle(posting)
            except Exception:
                log.exception("job %s: whether it was accepted is looked at again at the next start", posting.job_id)

    async def _settle(self, posting: JobMessage) -> None:
        """Follow a job that was being handed in when the bot went down, or say that it was not accepted."""
        try:
            await self._bot.service.get(posting.job_id)
        except NotFound:
            if posting.message_id is not None:
                await self._never_accepted(posting)
            await self._bot.memory.forget(posting.job_id)
        else:
            await self._bot.memory.set_state(posting.job_id, JobMessageState.FOLLOWING)
            self.follow(replace(posting, state=JobMessageState.FOLLOWING))

    async def _never_accepted(self, posting: JobMessage) -> None:
        try:
            await self._bot.wire.show(posting, never_accepted_card())
        except discord.HTTPException as error:
            if classify_failure(error) is FailureKind.TRANSIENT:
                raise
            log.info("could not say that job %s was never accepted: %s", posting.job_id, error)

    async def unfollow(self, job_id: str) -> None:
        """Follow a job no longer: nothing is shown or announced once this has returned."""
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class MessageUpdater:
    """Keeps one message current; its words are edited only when they change, and not too often."""

    def __init__(self, bot: Stemify, posting: JobMessage) -> None:
        self._bot = bot
        self.posting = posting
        self._view: JobView | None = None
        self._shown: Card | None = None
        self._editable = True
        self._news = asyncio.Event()
        self._over = asyncio.Event()

    def show_again(self) -> None:
        self._shown, self._editable = None, True
        self._news.set()

    async def run(self) -> None:
        reader = asyncio.create_task(self._read(), name=f"watch {self.posting.job_id}")
        try:
            if self.posting.message_id is None:
                await self._post()
            await self._keep_current()
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
        if self._view is None or not self._view.job.is_over:
            await self._deleted()
            return
        await self._finish(self._view)

    # Reading.

    async def _read(self) -> None:
        """Hold `_view` at the job's latest state until it is over or gone."""
        service, job_id = self._bot.service, self.posting.job_id
        while not self._over.is_set():
            try:
                async for view in service.watch(job_id):
                    self._view = view
                    self._news.set()
                    if view.job.is_over:
                        self._over.set()
            except NotFound:
                self._view = None
                self._over.set()
            except Exception:
                log.exception("watching job %s broke off, trying again", job_id)
                await asyncio.sleep(2)
            else:
                await asyncio.sleep(0.2)
        self._news.set()

    # Showing.

    async def _post(self) -> None:
        """The message is still to be sent (audio that was dropped in a channel)."""
        while self._view is None and not self._over.is_set():
            self._news.clear()
            await self._news.wait()
        if self._view is None:
            return
        card = self._card(self._view)
        try:
            message = await self._bot.wire.post(self.posting, card, nonce=nonce(self.posting.job_id, "p"))
        except Exception as error:
            log.info("job %s has no message: %s", self.posting.job_id, error)
            self._editable = False
            return
        self.posting, self._shown = replace(self.posting, message_id=message.id), card
        await self._bot.memory.set_message(self.posting.job_id, message.id)

    def _card(self, view: JobView) -> Card:
        return job_card(view, now=datetime.now(UTC), refreshable=not self.posting.reachable)

    async def _keep_current(self) -> None:
        interval_s = self._bot.settings.discord.edit_interval_s
        while not self._over.is_set():
            view = self._view
            if view is not None and self._editable and self._card(view) != self._shown:
                await self._bot.wire.wait_for_edit_slot(self.posting)
                view = self._view
                if self._over.is_set() or view is None:
                    break
                card = self._card(view)
                if await self._show(card):
                    self._shown = card
                far_back = view.queue_place is not None and view.queue_place > RESUME_WINDOW
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), interval_s * (3 if far_back else 1))
                continue
            self._news.clear()
            await self._news.wait()

    async def _show(self, card: Card) -> bool:
        """Whether the message was brought to `card`; what stands in the way for good ends the attempts."""
        try:
            await self._bot.wire.show(self.posting, card)
        except Exception as error:
            what = classify_failure(error)
            if what in (FailureKind.GONE, FailureKind.NO_ACCESS, FailureKind.TOKEN_OVER):
                self._editable = False
            elif what is not FailureKind.TRANSIENT:
                log.exception("job %s: its message could not be edited", self.posting.job_id)
                return True  # these words do not work; the next ones may
            log.info("job %s: its message could not be edited: %s", self.posting.job_id, what.name)
            return False
        return True

    # The end.

    async def _finish(self, view: JobView) -> None:
        """Show the final card and announce it; what fails for want of a connection, of the storage or of the bot's own
        memory is tried again for a while, when Discord comes back, and at the next start."""
        shown: bool | None = None
        for pause_s in (*FINAL_PAUSES_S, None):
            try:
                if shown is None:
                    await self._bot.wire.wait_for_edit_slot(self.posting)
                    shown = await self._show_final(view)
                await announce(self._bot, self.posting, view, shown=shown)
            except Exception as error:
                may_pass = classify_failure(error) is FailureKind.TRANSIENT or isinstance(
                    error, StemifyError | sqlite3.Error
                )
                if not may_pass or pause_s is None:
                    raise
                log.warning("job %s: its end is announced later: %s", view.job.id, type(error).__name__)
                await asyncio.sleep(pause_s)
            else:
                await self._bot.memory.set_state(view.job.id, JobMessageState.DONE)
                return

    async def _show_final(self, view: JobView) -> bool:
        """Whether the card could be shown where the job was asked for."""
        if self.posting.message_id is None:
            return False
        try:
            await show_result(self._bot, self.posting, view)
        except Exception as error:
            what = classify_failure(error)
            if what is FailureKind.TRANSIENT:
                raise
            log.info("job %s: no final card: %s", view.job.id, what.name, exc_info=what is FailureKind.OTHER)
            return False
        return True

    async def _deleted(self) -> None:
        if self.posting.message_id is not None:
            with suppress(Exception):
                await self._bot.wire.show(self.posting, deleted_card())
        await self._bot.memory.set_state(self.posting.job_id, JobMessageState.DONE)


async def show_result(bot: Stemify, posting: JobMessage, view: JobView) -> None:
    """The card of a job that is over, with its picture. Raises what Discord answers."""
    card = job_card(view, now=datetime.now(UTC))
    if not card.picture:
        await bot.wire.show(posting, card)
        return
    try:
        async with bot.service.open_file(view.job, "waveform") as picture:
            await bot.wire.show(posting, card, picture=picture)
            return
    except NotFound:
        pass
    except Exception as error:
        if classify_failure(error) not in (FailureKind.TOO_LARGE, FailureKind.MALFORMED):
            raise
    await bot.wire.show(posting, replace(card, picture=False))
