"""Announce the end of a job: one new message that mentions the requester, with the stems that fit attached.

A job is announced exactly once, also across restarts: each message is recorded as `sending` before it goes out and as
`sent` afterwards. After a crash in between, Discord refuses a second message with the same nonce for a few minutes;
later the channel's history shows whether the first one arrived.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import discord

from bot.announcement.text import (
    MORE_STEMS,
    announcement,
    announcement_without_title,
    file_description,
    more_stems,
)
from bot.cards.buttons import JobButtons
from bot.cards.job_card import job_card
from bot.database.database import AnnouncementPart, BotDatabase, JobMessage
from bot.links import with_public_links
from bot.messages.attachments import REQUEST_BYTES, next_limit, pack
from bot.messages.messenger import FailureKind, Messenger, classify_failure, retry_on_disconnect, send
from engine.errors import NotFound
from engine.jobs.job import JobStatus, JobView
from engine.service.service import ResultFile, StemService

log = logging.getLogger(__name__)

NONCE_TTL_S = 120.0  # Discord remembers nonces for "the past few minutes"
UNKNOWN_CHANNEL = 10003
MAX_CLOCK_SKEW = timedelta(minutes=2)  # between this machine and Discord

Route = Callable[[str], Awaitable[discord.Message]]


def nonce(job_id: str, part: int | str) -> str:
    """Return a nonce within Discord's limit of 25 characters."""
    return base64.urlsafe_b64encode(UUID(job_id).bytes).decode().rstrip("=") + f"{part}"


@dataclass(frozen=True)
class _Message:
    """One message of an announcement; `view` is None for a batch."""

    job_message: JobMessage
    view: JobView | None
    part: int
    text: str
    plain_text: str
    files: tuple[ResultFile, ...] = ()

    @property
    def job_id(self) -> str:
        return self.job_message.job_id

    @property
    def title(self) -> str:
        return self.view.job.title if self.view is not None else ""

    @property
    def nonce(self) -> str:
        return nonce(self.job_id, self.part)

    def matches(self, sent: discord.Message) -> bool:
        if str(sent.nonce) == self.nonce:
            return True
        replies_to = sent.reference.message_id if sent.reference is not None else None
        return sent.content in (self.text, self.plain_text) and replies_to in (None, self.job_message.message_id)


class Announcer:
    """Sends announcements and records them."""

    def __init__(self, database: BotDatabase, messages: Messenger, service: StemService) -> None:
        self._database = database
        self._messages = messages
        self._service = service

    async def announce(self, job_message: JobMessage, view: JobView, *, shown: bool) -> None:
        """Send the parts that have not been sent yet; without the final card `shown`, link to the job's page.

        Raises only errors that are worth a retry.
        """
        job = view.job
        if job.was_cancelled:
            return
        recorded = await self._database.announcement_parts(job.id)
        limit_bytes = await self._limit(job_message, recorded)
        while True:
            try:
                await self._announce(job_message, view, limit_bytes, recorded, shown=shown)
            except discord.HTTPException as error:
                if classify_failure(error) is not FailureKind.TOO_LARGE or not limit_bytes:
                    raise
                limit_bytes = next_limit(limit_bytes)
                log.info("Discord refused the files as too large", extra={"job": job.id, "next_limit": limit_bytes})
                await self._database.set_limit(job.id, limit_bytes)
            else:
                return

    async def announce_batch(self, job_message: JobMessage, text: str) -> None:
        """Mention the requester of a batch once. Raises only errors that are worth a retry."""
        recorded = await self._database.announcement_parts(job_message.job_id)
        await self._send_once(_Message(job_message, None, 0, text, text), recorded.get(0))

    async def _limit(self, job_message: JobMessage, recorded: Mapping[int, AnnouncementPart]) -> int:
        """Return the limit of a file. It stays the same once a message was sent, since the next ones depend on it."""
        stored = await self._database.job_message(job_message.job_id)
        if stored is None or not recorded:
            limit_bytes = min(self._messages.file_limit(job_message), REQUEST_BYTES)
            await self._database.set_limit(job_message.job_id, limit_bytes)
            return limit_bytes
        return stored.limit_bytes

    async def _announce(
        self,
        job_message: JobMessage,
        view: JobView,
        limit_bytes: int,
        recorded: Mapping[int, AnnouncementPart],
        *,
        shown: bool,
    ) -> None:
        """Send all parts with files of at most `limit_bytes` each."""
        job = view.job
        user_id = job_message.user_id if job_message.batch_id is None else None  # a batch mentions the user at its end
        files = await self._service.files_within(job, limit_bytes) if limit_bytes else []
        attached = {file.name for file in files}
        left_out = [name for name in _names(view) if name not in attached]
        for part, message_files in enumerate(pack(files)):
            text, plain_text = more_stems(view), MORE_STEMS
            if part == 0:
                plain_text = announcement_without_title(view, user_id)
                bit_rate = min((file.bit_rate for file in files if file.bit_rate is not None), default=None)
                text = announcement(
                    view, user_id, shown=shown, left_out=left_out, limit_bytes=limit_bytes, bit_rate=bit_rate
                )
                page_url = with_public_links(view).page_url
                if not shown and page_url is not None and job.status is JobStatus.COMPLETED:
                    text += f"\n<{page_url}>"
            message = _Message(job_message, view, part, text, plain_text, message_files)
            await self._send_once(message, recorded.get(part))

    async def _send_once(self, message: _Message, recorded: AnnouncementPart | None) -> None:
        if recorded is not None:
            if recorded.sent:
                return
            sent_as = await self._find_sent(message, recorded)
            if sent_as is not None:
                await self._database.mark_sent(message.job_id, message.part, *sent_as)
                return
        await self._database.mark_sending(message.job_id, message.part)
        sent = await self._send(message)
        await self._database.mark_sent(
            message.job_id, message.part, sent.channel.id if sent else None, sent.id if sent else None
        )

    async def _find_sent(
        self, message: _Message, recorded: AnnouncementPart
    ) -> tuple[int, int] | tuple[None, None] | None:
        """Return the channel and id of a message that may have been sent.

        (None, None): it may have arrived, and sending it again is not safe. None: sending it is safe.
        """
        job_message = message.job_message
        if not job_message.reachable:
            return _assume_sent(message)
        channels = [self._messages.channel(job_message)]
        if job_message.guild_id is not None and job_message.message_id is not None:
            channels.append(self._messages.thread(job_message))
        tried_at = datetime.fromtimestamp(recorded.tried_at, UTC)
        oldest = discord.utils.time_snowflake(tried_at - MAX_CLOCK_SKEW, high=False)
        for channel in channels:
            try:
                async for sent in channel.history(limit=200, after=discord.Object(oldest), oldest_first=True):
                    if sent.author.id == self._messages.own_id and message.matches(sent):
                        return (sent.channel.id, sent.id)
            except discord.HTTPException as error:
                if classify_failure(error) is FailureKind.TRANSIENT:
                    raise
                if error.code == UNKNOWN_CHANNEL and channel.id == job_message.message_id:
                    continue  # there is no thread
                if time.time() - recorded.tried_at > NONCE_TTL_S:
                    return _assume_sent(message)
        return None

    async def _send(self, message: _Message) -> discord.Message | None:
        """Send the message with its stems; None if no route is open.

        Stems of a further message that Discord refuses as too large are named with their links.
        """
        async with AsyncExitStack() as stack:
            files: list[tuple[Path, ResultFile]] = []
            for file in message.files:
                try:
                    path = await stack.enter_async_context(self._service.open_result_file(file))
                except NotFound:
                    continue  # deleted in the meantime
                files.append((path, file))
            try:
                return await self._post(message, files)
            except discord.HTTPException as error:
                if classify_failure(error) is not FailureKind.TOO_LARGE or not message.part:
                    raise
                log.info("Discord refused the files as too large, sending links", extra={"job": message.job_id})
        assert message.view is not None
        text = more_stems(message.view, [file.name for file in message.files])
        return await self._post(replace(message, text=text), [])

    async def _post(self, message: _Message, files: list[tuple[Path, ResultFile]]) -> discord.Message | None:
        """Post by the first route that Discord allows: the channel, the interaction's token, a direct message.

        A text that Discord refuses is replaced, on the same route, by one without title and links.
        """
        for route in self._routes(message, files):
            for text in (message.text, message.plain_text):
                try:
                    return await route(text)
                except discord.HTTPException as error:
                    kind = classify_failure(error)
                    if kind in (FailureKind.TRANSIENT, FailureKind.TOO_LARGE):
                        raise
                    reason = {"job": message.job_id, "status": error.status, "code": error.code}
                    log.info("could not announce the job by this route", extra=reason)
                    if kind is not FailureKind.MALFORMED:
                        break
        log.info("the job's owner cannot be reached", extra={"job": message.job_id})
        return None

    def _routes(self, message: _Message, files: list[tuple[Path, ResultFile]]) -> Iterator[Route]:
        """Yield the routes in order; each sends a text with the files."""
        job_message = message.job_message

        def content(text: str) -> dict[str, Any]:
            title = message.title if text == message.text else ""
            attached = [
                discord.File(path, filename=file.filename, description=file_description(file.name, title))
                for path, file in files
            ]
            mentions = discord.AllowedMentions(users=[discord.Object(job_message.user_id)])
            parts = {"content": text, "files": attached, "allowed_mentions": mentions}
            view = message.view
            if view is not None and message.part == 0 and (job_message.batch_id or view.job.options.comparison):
                card = job_card(view, now=datetime.now(UTC))  # its buttons: here are the files, or it has no card
                parts["view"] = JobButtons([*card.mixes, *card.buttons], message.job_id)
            return parts

        async def to_channel(text: str, *, in_thread: bool = False) -> discord.Message:
            return await self._messages.send_about(
                job_message, lambda: {**content(text), "nonce": message.nonce}, in_thread=in_thread
            )

        async def by_token(text: str) -> discord.Message:
            webhook = self._messages.webhook(job_message)
            return await retry_on_disconnect(
                lambda: webhook.send(**content(text), wait=True, ephemeral=job_message.is_private), repeatable=False
            )

        async def to_user(text: str) -> discord.Message:
            channel = await self._messages.open_dm(job_message.user_id)
            async with self._messages.channel_lock(channel.id, "send"):
                return await send(channel, None, lambda: {**content(text), "nonce": message.nonce})

        if job_message.reachable:
            if self._database.servers.of(job_message.guild_id).uses_threads:
                yield partial(to_channel, in_thread=True)
            yield to_channel
        if self._messages.has_token(job_message):
            yield by_token
        if job_message.is_requested:
            yield to_user


def _names(view: JobView) -> list[str]:
    """Return the names of the stems and of the stem file."""
    result = view.job.result
    if result is None:
        return []
    return [*result.files_by_name, *(["stem"] if result.stem_file is not None else [])]


def _assume_sent(message: _Message) -> tuple[None, None]:
    log.warning("the job may have been announced already, not announcing it again", extra={"job": message.job_id})
    return (None, None)
