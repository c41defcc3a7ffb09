"""Keep one message per job current until the job has ended."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from bot.announcement.announcer import Announcer, nonce
from bot.cards.card import Card
from bot.cards.job_card import deleted_card, job_card
from bot.database.database import BotDatabase, JobMessage, JobMessageState
from bot.messages.messenger import FailureKind, Messenger, classify_failure
from bot.progress.final_delivery import retry_delivery
from bot.progress.watch import watch_job
from engine.errors import NotFound
from engine.jobs.job import JobView
from engine.service.service import StemService

log = logging.getLogger(__name__)

SLOW_EDITS_FROM_PLACE = 4  # jobs further back in the queue are edited every third interval


class MessageUpdater:
    """Keeps one message current, editing it only when its text changes and not more often than the interval."""

    def __init__(
        self,
        job_message: JobMessage,
        database: BotDatabase,
        messages: Messenger,
        service: StemService,
        announcer: Announcer,
        edit_interval_s: float,
    ) -> None:
        self._job_message = job_message
        self._database = database
        self._messages = messages
        self._service = service
        self._announcer = announcer
        self._edit_interval_s = edit_interval_s
        self._view: JobView | None = None
        self._shown: Card | None = None
        self._editable = True
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    def refresh_token(self, token: str, token_until: float) -> None:
        """Edit the message with a new token from now on."""
        self._job_message = replace(self._job_message, token=token, token_until=token_until, original=True)
        self._shown, self._editable = None, True
        self._changed.set()

    async def run(self) -> None:
        """Update the message until the job has ended and been announced."""
        watcher = asyncio.create_task(self._watch(), name=f"watch {self._job_message.job_id}")
        try:
            if self._job_message.message_id is None:
                await self._post()
            await self._keep_current()
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        if self._view is None or not self._view.job.is_over:
            await self._show_deleted()
            return
        await self._finish(self._view)

    # Read the job.

    async def _watch(self) -> None:
        """Keep `_view` at the job's latest state until it has ended or was deleted."""
        async for view in watch_job(self._service, self._job_message.job_id):
            self._view = view
            self._changed.set()
        if self._view is not None and not self._view.job.is_over:
            self._view = None
        self._ended.set()
        self._changed.set()

    # Show it.

    async def _post(self) -> None:
        """Send the job's message, for audio that was posted in a channel."""
        while self._view is None and not self._ended.is_set():
            self._changed.clear()
            await self._changed.wait()
        if self._view is None:
            return
        card, job_id = self._card(self._view), self._job_message.job_id
        try:
            message = await self._messages.post(self._job_message, card, nonce=nonce(job_id, "p"))
        except Exception as error:
            log.info("could not send the job's message", extra={"job": job_id, "reason": error})
            self._editable = False
            if classify_failure(error) is FailureKind.NO_ACCESS:  # its stems could not be sent either
                await self._service.delete(job_id, by=self._view.job.owner)
            return
        self._job_message, self._shown = replace(self._job_message, message_id=message.id), card
        await self._database.set_message(job_id, message.id)

    def _card(self, view: JobView) -> Card:
        return job_card(view, now=datetime.now(UTC), refreshable=not self._job_message.reachable)

    async def _keep_current(self) -> None:
        while not self._ended.is_set():
            view = self._view
            if view is not None and self._editable and self._card(view) != self._shown:
                await self._messages.wait_for_edit_slot(self._job_message)
                view = self._view
                if self._ended.is_set() or view is None:
                    break
                card = self._card(view)
                if await self._show(card):
                    self._shown = card
                is_far_back = view.queue_place is not None and view.queue_place >= SLOW_EDITS_FROM_PLACE
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), self._edit_interval_s * (3 if is_far_back else 1))
                continue
            self._changed.clear()
            await self._changed.wait()

    async def _show(self, card: Card) -> bool:
        """Edit the message and return whether this card is done; permanent failures end the editing."""
        try:
            await self._messages.show(self._job_message, card)
        except Exception as error:
            kind = classify_failure(error)
            if kind in (FailureKind.GONE, FailureKind.NO_ACCESS, FailureKind.TOKEN_EXPIRED):
                self._editable = False
            elif kind is not FailureKind.TRANSIENT:
                log.exception("could not edit the job's message", extra={"job": self._job_message.job_id})
                return True  # Discord refuses this text; the next one may work
            log.info("could not edit the job's message", extra={"job": self._job_message.job_id, "reason": kind.name})
            return False
        return True

    # Finish.

    async def _finish(self, view: JobView) -> None:
        """Show the final card and announce it. Raises failures that last for 20 minutes."""
        shown: bool | None = None

        async def deliver() -> None:
            nonlocal shown
            if shown is None:
                await self._messages.wait_for_edit_slot(self._job_message)
                shown = await self._show_final(view)
            await self._announcer.announce(self._job_message, view, shown=shown)

        await retry_delivery(view.job.id, deliver)
        await self._database.set_state(view.job.id, JobMessageState.DONE)

    async def _show_final(self, view: JobView) -> bool:
        """Show the final card and return whether that succeeded. Raises transient failures."""
        if self._job_message.message_id is None:
            return False
        try:
            await show_result(self._messages, self._service, self._job_message, view)
        except Exception as error:
            kind = classify_failure(error)
            if kind is FailureKind.TRANSIENT:
                raise
            log.info(
                "could not show the final card",
                exc_info=kind is FailureKind.OTHER,
                extra={"job": view.job.id, "reason": kind.name},
            )
            return False
        return True

    async def _show_deleted(self) -> None:
        if self._job_message.message_id is not None:
            with suppress(Exception):
                await self._messages.show(self._job_message, deleted_card())
        await self._database.set_state(self._job_message.job_id, JobMessageState.DONE)


async def show_result(messages: Messenger, service: StemService, job_message: JobMessage, view: JobView) -> None:
    """Show the card of an ended job, with its picture if there is one. Raises Discord's errors."""
    card = job_card(view, now=datetime.now(UTC))
    if not card.picture:
        await messages.show(job_message, card)
        return
    try:
        async with service.open_file(view.job, "waveform") as picture:
            await messages.show(job_message, card, picture=picture)
            return
    except NotFound:
        pass
    except Exception as error:
        if classify_failure(error) not in (FailureKind.TOO_LARGE, FailureKind.MALFORMED):
            raise
    await messages.show(job_message, replace(card, picture=""))
