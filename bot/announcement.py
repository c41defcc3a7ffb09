"""The announcement: one new message that notifies the requester, with the stems attached where they fit.

Exactly once, also across restarts: what is about to be sent is written down first. Where that is all that is known
afterwards, the message is looked for: Discord itself refuses to make a second one with the same nonce for some
minutes, and later the channel's history tells.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import discord

from bot.cards import announcement, more_stems
from bot.database import AnnouncementPart, JobMessage
from bot.messages import FailureKind, classify_failure, retry_on_disconnect, send
from engine.errors import NotFound
from engine.jobs.job import JobStatus, JobView
from engine.jobs.results import StemInfo

if TYPE_CHECKING:
    from bot.app import Stemify

log = logging.getLogger(__name__)

REQUEST_BYTES = 25 * 1024 * 1024 - 64 * 1024  # Discord's cap of a whole request, less the form around the files
NONCE_MEMORY_S = 120.0  # Discord remembers nonces for "the past few minutes"
FILES_A_MESSAGE = 10
MAX_CLOCK_SKEW = timedelta(minutes=2)  # ours and Discord's, at most


@dataclass(frozen=True)
class MessageFiles:
    """The stems of one message."""

    stems: tuple[tuple[str, StemInfo], ...] = ()


def pack(stems: Sequence[tuple[str, StemInfo]], limit_bytes: int) -> tuple[list[MessageFiles], list[str]]:
    """(messages, at least one; names of the stems that fit into none)."""
    parcels: list[list[tuple[str, StemInfo]]] = [[]]
    left_out: list[str] = []
    room = REQUEST_BYTES
    for name, info in stems:
        if info.size > min(limit_bytes, REQUEST_BYTES):
            left_out.append(name)
            continue
        if info.size > room or len(parcels[-1]) == FILES_A_MESSAGE:
            parcels.append([])
            room = REQUEST_BYTES
        parcels[-1].append((name, info))
        room -= info.size
    return [MessageFiles(tuple(parcel)) for parcel in parcels], left_out


def nonce(job_id: str, part: int | str) -> str:
    """At most 25 characters, as Discord wants it."""
    return base64.urlsafe_b64encode(UUID(job_id).bytes).decode().rstrip("=") + f"{part}"


async def announce(bot: Stemify, posting: JobMessage, view: JobView, *, shown: bool) -> None:
    """Send what is still to be sent. `shown`: the job's card is where it belongs. Raises only what is worth another
    try later."""
    job = view.job
    if job.was_cancelled:
        return
    stems = list(job.result.stems) if job.result is not None else []
    parcels, left_out = pack(stems, posting.limit_bytes)
    before = await bot.memory.deliveries(job.id)
    for part, parcel in enumerate(parcels):
        if part in before and before[part].sent:
            continue
        text = more_stems(job)
        if part == 0:
            text = announcement(job, posting.user_id, left_out=left_out, limit_bytes=posting.limit_bytes)
            if not shown and view.page_url is not None and job.status is JobStatus.COMPLETED:
                text += f"\n<{view.page_url}>"
        await _AnnouncementSender(bot, posting, view, part, text).send(parcel, before.get(part))


class _AnnouncementSender:
    """One message of the announcement on its way."""

    def __init__(self, bot: Stemify, posting: JobMessage, view: JobView, part: int, text: str) -> None:
        self._bot, self._posting, self._view = bot, posting, view
        self._part, self._text = part, text

    async def send(self, parcel: MessageFiles, before: AnnouncementPart | None) -> None:
        if before is not None:
            found = await self._look_for_it(before)
            if found is not None:
                await self._sent(*found)
                return
        await self._bot.memory.mark_sending(self._view.job.id, self._part)
        message = await self._send(parcel)
        await self._sent(message.channel.id if message else None, message.id if message else None)

    async def _sent(self, channel_id: int | None, message_id: int | None) -> None:
        await self._bot.memory.mark_sent(self._view.job.id, self._part, channel_id, message_id)

    async def _look_for_it(self, before: AnnouncementPart) -> tuple[int | None, int | None] | None:
        """Where the message is that may have been sent; None: it is safe to send it."""
        posting = self._posting
        if not posting.reachable:
            log.warning("job %s: it may have been announced, it is not announced again", posting.job_id)
            return (None, None)
        channel = self._bot.wire.channel(posting)
        tried_at = datetime.fromtimestamp(before.tried_at, UTC)
        oldest = discord.utils.time_snowflake(tried_at - MAX_CLOCK_SKEW, high=False)
        try:
            async for message in channel.history(limit=200, after=discord.Object(oldest), oldest_first=True):
                if message.author.id == self._bot.own_id and self._is_it(message):
                    return (message.channel.id, message.id)
        except discord.HTTPException as error:
            if classify_failure(error) is FailureKind.TRANSIENT:
                raise
            if time.time() - before.tried_at > NONCE_MEMORY_S:
                log.warning("job %s: it may have been announced, it is not announced again", posting.job_id)
                return (None, None)
        return None

    def _is_it(self, message: discord.Message) -> bool:
        if str(message.nonce) == nonce(self._posting.job_id, self._part):
            return True
        about = message.reference.message_id if message.reference is not None else None
        return message.content == self._text and about in (None, self._posting.message_id)

    async def _send(self, parcel: MessageFiles) -> discord.Message | None:
        """The message, or None where nobody can be reached in any way."""
        async with AsyncExitStack() as stack:
            files: list[tuple[Path, str]] = []
            for name, info in parcel.stems:
                try:
                    path = await stack.enter_async_context(self._bot.service.open_file(self._view.job, name))
                except NotFound:
                    continue
                files.append((path, info.filename))
            try:
                return await self._post(files)
            except discord.HTTPException as error:
                if classify_failure(error) is not FailureKind.TOO_LARGE:
                    raise
                log.info("job %s: too large to be attached after all, links must do", self._posting.job_id)
                if self._part:
                    return None
        left_out = [name for name, _ in parcel.stems]
        self._text = announcement(self._view.job, self._posting.user_id, left_out=left_out)
        return await self._post([])

    async def _post(self, files: list[tuple[Path, str]]) -> discord.Message | None:
        """Into the channel, else by the interaction's token, else as a direct message."""
        posting = self._posting
        mentions = discord.AllowedMentions(users=[discord.Object(posting.user_id)])

        def attached() -> list[discord.File]:
            return [discord.File(path, filename=name) for path, name in files]

        if posting.reachable:
            try:
                return await self._to_channel(self._bot.wire.channel(posting), attached, mentions, posting.message_id)
            except discord.HTTPException as error:
                self._check_other_route(error)
        if self._bot.wire.by_token(posting):
            try:
                hook = self._bot.wire.webhook(posting)
                return await retry_on_disconnect(
                    lambda: hook.send(self._text, files=attached(), allowed_mentions=mentions, wait=True),
                    repeatable=False,
                )
            except discord.HTTPException as error:
                self._check_other_route(error)
        try:
            user = await self._bot.create_dm(discord.Object(posting.user_id))
            return await self._to_channel(user, attached, mentions, None)
        except discord.HTTPException as error:
            if classify_failure(error) in (FailureKind.TRANSIENT, FailureKind.TOO_LARGE):
                raise
            log.info("job %s: its owner cannot be reached (%s)", posting.job_id, error.code)
            return None

    def _check_other_route(self, error: discord.HTTPException) -> None:
        """Raise what another route would not help with."""
        if classify_failure(error) in (FailureKind.TRANSIENT, FailureKind.TOO_LARGE):
            raise error
        log.info("job %s: trying another route (%s %s)", self._posting.job_id, error.status, error.code)

    async def _to_channel(
        self,
        channel: discord.DMChannel | discord.PartialMessageable,
        attached: Callable[[], list[discord.File]],
        mentions: discord.AllowedMentions,
        answer_to: int | None,
    ) -> discord.Message:
        key = nonce(self._posting.job_id, self._part)
        async with self._bot.wire.channel_lock(channel.id, "send"):
            return await send(
                channel,
                answer_to,
                lambda: {
                    "content": self._text,
                    "files": attached(),
                    "allowed_mentions": mentions,
                    "nonce": key,
                },
            )
