"""Keep the card of a batch current, post the stems of each song, and mention the requester at the end."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace

from bot.announcement.announcer import Announcer, nonce
from bot.cards.batch_card import SongState, batch_announcement, batch_card
from bot.cards.card import Card
from bot.cards.text import SONG_NEVER_ACCEPTED
from bot.database.batches import BatchSong
from bot.database.database import BotDatabase, JobMessage, JobMessageState, message_url
from bot.messages.messenger import FailureKind, Messenger, classify_failure
from bot.progress.final_delivery import retry_delivery
from bot.progress.watch import watch_job
from engine.errors import NotFound
from engine.jobs.job import JobStatus, JobView
from engine.service.service import StemService

log = logging.getLogger(__name__)


class BatchUpdater:
    """Follows all songs of a batch; each song can be unfollowed alone."""

    def __init__(
        self,
        job_message: JobMessage,
        database: BotDatabase,
        messages: Messenger,
        service: StemService,
        announcer: Announcer,
        edit_interval_s: float,
        *,
        is_submitting: bool = False,
    ) -> None:
        self._job_message = job_message
        self._database = database
        self._messages = messages
        self._service = service
        self._announcer = announcer
        self._edit_interval_s = edit_interval_s
        self.is_cancelled = False
        self._is_submitting = is_submitting
        self._views: dict[str, JobView | None] = {}  # None: deleted
        self._songs: dict[str, asyncio.Task[None]] = {}
        self._posted = asyncio.Event()  # the card can be replied to
        self._changed = asyncio.Event()
        self._is_editable = True
        self._shown: Card | None = None

    def refresh_token(self, token: str, token_until: float) -> None:
        """Edit the message with a new token from now on."""
        self._job_message = replace(self._job_message, token=token, token_until=token_until, original=True)
        self._shown, self._is_editable = None, True
        self._changed.set()

    def follow_song(self, job_id: str) -> None:
        """Follow a song that was accepted."""
        if job_id not in self._songs:
            self._songs[job_id] = asyncio.create_task(self._follow_song(job_id), name=f"follow {job_id}")

    def cancel(self) -> None:
        """Have no more songs submitted."""
        self.is_cancelled = True

    def end_submission(self) -> None:
        """End the batch as soon as its songs have ended: no more are submitted."""
        self._is_submitting = False
        self._changed.set()

    def notify(self) -> None:
        """Show the songs again."""
        self._changed.set()

    async def unfollow_song(self, job_id: str) -> None:
        """Stop following a song that is deleted; once this returns, its stems are not posted."""
        if (task := self._songs.get(job_id)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._views[job_id] = None
            self._changed.set()

    async def run(self) -> None:
        """Update the message until all songs have ended and the requester was mentioned."""
        try:
            await self._resume_songs()
            await self._keep_current()
        finally:
            for task in self._songs.values():
                task.cancel()
            await asyncio.gather(*self._songs.values(), return_exceptions=True)
        batch_id = self._job_message.job_id
        text = batch_announcement(await self._states(), self._job_message.user_id)
        if text is not None:
            await retry_delivery(batch_id, lambda: self._announcer.announce_batch(self._job_message, text))
        await self._database.set_state(batch_id, JobMessageState.DONE)

    async def show_once(self) -> None:
        """Show the songs of a batch that has ended. Raises Discord's errors."""
        for song in await self._database.batches.songs(self._job_message.job_id):
            self._views[song.job_id] = await self._view_of(song)
        await self._messages.show(self._job_message, await self._card())

    # The songs.

    async def _resume_songs(self) -> None:
        """Follow the accepted songs; refuse the songs that were lost in a restart."""
        if self._is_submitting:
            return
        for song in await self._database.batches.songs(self._job_message.job_id):
            if song.refusal is not None:
                continue
            is_lost = self._job_message.state is JobMessageState.SUBMITTING and await self._view_of(song) is None
            if is_lost:
                await self._database.batches.refuse(song.job_id, SONG_NEVER_ACCEPTED)
                await self._database.delete(song.job_id)
                await self._database.servers.delete_job(song.job_id)
            else:
                self.follow_song(song.job_id)
        await self._database.set_state(self._job_message.job_id, JobMessageState.FOLLOWING)

    async def _view_of(self, song: BatchSong) -> JobView | None:
        try:
            return await self._service.get(song.job_id)
        except NotFound:
            return None

    async def _follow_song(self, job_id: str) -> None:
        view: JobView | None = None
        async for view in watch_job(self._service, job_id):
            self._views[job_id] = view
            self._changed.set()
        if view is None or not view.job.is_over:
            self._views[job_id] = None
        elif view.job.status is JobStatus.COMPLETED:
            await self._post_stems(view)
        await self._database.set_state(job_id, JobMessageState.DONE)
        self._changed.set()

    async def _post_stems(self, view: JobView) -> None:
        await self._posted.wait()

        async def deliver() -> None:
            song = replace(self._job_message, job_id=view.job.id, batch_id=self._job_message.job_id, is_batch=False)
            await self._announcer.announce(song, view, shown=True)

        try:
            await retry_delivery(view.job.id, deliver)
        except Exception:
            log.exception("could not post the stems of a song", extra={"job": view.job.id})

    # The card.

    async def _states(self) -> list[SongState]:
        states = []
        for song in await self._database.batches.songs(self._job_message.job_id):
            view = self._views.get(song.job_id)
            is_deleted = song.job_id in self._views and view is None
            states.append(SongState(song.name, view, song.refusal, await self._url(song), is_deleted))
        return states

    async def _url(self, song: BatchSong) -> str | None:
        part = (await self._database.announcement_parts(song.job_id)).get(0)
        if part is None or part.channel_id is None or part.message_id is None:
            return None
        return message_url(self._job_message, part.channel_id, part.message_id)

    async def _card(self) -> Card:
        return batch_card(await self._states(), refreshable=not self._job_message.reachable)

    async def _keep_current(self) -> None:
        while True:
            self._changed.clear()
            is_over = self._is_over()
            card = await self._card()
            if self._is_editable and card != self._shown:
                await self._show(card)
            self._posted.set()
            if is_over and (card == self._shown or not self._is_editable):
                return
            await self._changed.wait()
            if not self._is_over():
                await asyncio.sleep(self._edit_interval_s)

    def _is_over(self) -> bool:
        return not self._is_submitting and all(task.done() for task in self._songs.values())

    async def _show(self, card: Card) -> None:
        """Post or edit the message; permanent failures end the editing."""
        try:
            if self._job_message.message_id is None:
                await self._post(card)
            else:
                await self._messages.wait_for_edit_slot(self._job_message)
                await self._messages.show(self._job_message, card)
            self._shown = card
        except Exception as error:
            kind = classify_failure(error)
            log.info("could not show a batch", extra={"job": self._job_message.job_id, "reason": kind.name})
            if kind is FailureKind.TRANSIENT:
                await asyncio.sleep(self._edit_interval_s)
                self._changed.set()
            else:
                self._is_editable = False
            if kind is FailureKind.NO_ACCESS and self._job_message.message_id is None:
                await self._delete_songs()  # their stems could not be sent either

    async def _delete_songs(self) -> None:
        self.cancel()
        for job_id in list(self._songs):
            with suppress(NotFound):
                await self._service.delete(job_id, by=self._job_message.owner)

    async def _post(self, card: Card) -> None:
        batch_id = self._job_message.job_id
        message = await self._messages.post(self._job_message, card, nonce=nonce(batch_id, "p"))
        self._job_message = replace(self._job_message, message_id=message.id)
        await self._database.batches.set_message(batch_id, message.id)
