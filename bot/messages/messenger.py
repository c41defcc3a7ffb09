"""Send and edit messages, and classify Discord's failures.

A job's message is edited with its interaction's token for 15 minutes: these edits do not count toward the global rate
limit and work where the bot is not a member. Later edits use the ordinary message of the channel.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

import aiohttp
import discord
from discord.utils import DEFAULT_FILE_SIZE_LIMIT_BYTES

from bot.cards.buttons import layout
from bot.cards.card import PICTURE, Card, without_link_buttons, without_title_and_links
from bot.database.database import JobMessage
from bot.messages.text import THREAD_NAME

log = logging.getLogger(__name__)
T = TypeVar("T")

CANNOT_REPLY = 160002  # returned without the permission Read Message History
THREAD_EXISTS = 160004
CHANNEL_PACE_S = 1.3  # between edits as a channel message: Discord allows 5 in 5 s, for old messages 3 in 6 s
PAUSES_S = (0.5, 1.0, 2.0, 4.0)


class FailureKind(Enum):
    """What a failure means for a message."""

    TOKEN_EXPIRED = auto()
    GONE = auto()  # the message was deleted
    NO_ACCESS = auto()  # no channel, no membership, no permission, or direct messages closed
    TOO_LARGE = auto()
    MALFORMED = auto()  # or content that Discord blocks
    TRANSIENT = auto()
    OTHER = auto()


_BY_CODE = {
    50027: FailureKind.TOKEN_EXPIRED,
    10015: FailureKind.TOKEN_EXPIRED,
    10008: FailureKind.GONE,
    10003: FailureKind.NO_ACCESS,
    10004: FailureKind.NO_ACCESS,
    50001: FailureKind.NO_ACCESS,
    50007: FailureKind.NO_ACCESS,
    50013: FailureKind.NO_ACCESS,
    50024: FailureKind.NO_ACCESS,  # no threads in this kind of channel
    50083: FailureKind.NO_ACCESS,  # archived thread
    160005: FailureKind.NO_ACCESS,  # locked thread
    40094: FailureKind.TOKEN_EXPIRED,  # a user's app may send 5 follow-ups where the bot is not a member
    40005: FailureKind.TOO_LARGE,
    200000: FailureKind.MALFORMED,  # AutoMod
    200001: FailureKind.MALFORMED,
    240000: FailureKind.MALFORMED,  # filter for harmful links
}
_BY_STATUS = {400: FailureKind.MALFORMED, 403: FailureKind.NO_ACCESS, 413: FailureKind.TOO_LARGE}


def classify_failure(error: BaseException) -> FailureKind:
    if isinstance(error, discord.HTTPException):
        if error.code in _BY_CODE:
            return _BY_CODE[error.code]
        if error.status >= 500 or error.status == 429:
            return FailureKind.TRANSIENT
        return _BY_STATUS.get(error.status, FailureKind.OTHER)
    if isinstance(error, (aiohttp.ClientError, OSError, TimeoutError)):
        return FailureKind.TRANSIENT
    return FailureKind.OTHER


async def retry_on_disconnect(call: Callable[[], Awaitable[T]], *, repeatable: bool = True) -> T:
    """Call again after a broken connection; if not `repeatable`, only if the request was never sent.

    discord.py retries 429 and 5xx, but connection resets only on macOS and Windows.
    """
    for pause_s in PAUSES_S:
        try:
            return await call()
        except discord.HTTPException:
            raise
        except (aiohttp.ClientConnectionError, OSError) as error:
            never_sent = isinstance(error, aiohttp.ClientConnectorError)
            if not repeatable and not never_sent:
                raise
            log.info("connection to Discord broke (%s), retrying in %s s", type(error).__name__, pause_s)
            await asyncio.sleep(pause_s)
    return await call()


class Messenger:
    """Sends and edits messages within Discord's rate limits."""

    def __init__(self, client: discord.Client) -> None:
        self._client = client
        self._next_edit: dict[int, float] = {}
        self._expired_tokens: set[str] = set()
        self._blocked_titles: set[str] = set()  # jobs whose title or links Discord refuses in their place
        self._locks: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()

    def channel_lock(self, channel_id: int, kind: Literal["edit", "send"]) -> asyncio.Lock:
        """Return the lock that allows one request of this kind at a time in a channel.

        Several requests that wait for one bucket of discord.py's rate limiter can miss their wake-up and sleep 30 s.
        """
        return self._locks.setdefault((channel_id, kind), asyncio.Lock())

    @property
    def own_id(self) -> int:
        assert self._client.user is not None
        return self._client.user.id

    def has_token(self, job_message: JobMessage) -> bool:
        """Whether the message can be edited with its interaction's token."""
        return job_message.token_alive and job_message.token not in self._expired_tokens

    def channel(self, job_message: JobMessage) -> discord.PartialMessageable:
        return self._client.get_partial_messageable(job_message.channel_id, guild_id=job_message.guild_id)

    def message(self, channel_id: int, message_id: int) -> discord.PartialMessage:
        return self._client.get_partial_messageable(channel_id).get_partial_message(message_id)

    def file_limit(self, job_message: JobMessage) -> int:
        """Return the size of a file that may be attached for this job.

        An interaction states the limit of its user, who may have a subscription. In a channel the server's limit
        holds, because the bot itself is the author.
        """
        if not job_message.reachable:
            return job_message.limit_bytes
        guild = self._client.get_guild(job_message.guild_id) if job_message.guild_id is not None else None
        own_limit = guild.filesize_limit if guild is not None else DEFAULT_FILE_SIZE_LIMIT_BYTES
        return min(job_message.limit_bytes, own_limit)

    def thread(self, job_message: JobMessage) -> discord.PartialMessageable:
        """Return the thread below the job's message, which has the id of the message."""
        assert job_message.message_id is not None
        return self._client.get_partial_messageable(job_message.message_id, guild_id=job_message.guild_id)

    async def send_about(
        self, job_message: JobMessage, parts: Callable[[], dict[str, Any]], *, in_thread: bool = False
    ) -> discord.Message:
        """Reply to the job's message, or send to the thread below it, which is created if there is none."""
        channel, reply_to = self.channel(job_message), job_message.message_id
        if in_thread and reply_to is not None:
            message = channel.get_partial_message(reply_to)
            try:
                await retry_on_disconnect(lambda: message.create_thread(name=THREAD_NAME))
            except discord.HTTPException as error:
                if error.code != THREAD_EXISTS:
                    raise
            channel, reply_to = self.thread(job_message), None
        async with self.channel_lock(channel.id, "send"):
            return await send(channel, reply_to, parts)

    async def open_dm(self, user_id: int) -> discord.DMChannel:
        return await self._client.create_dm(discord.Object(user_id))

    def webhook(self, job_message: JobMessage) -> discord.Webhook:
        assert job_message.token is not None
        application = self._client.application_id
        assert application is not None
        webhook = discord.Webhook.partial(application, job_message.token, client=self._client)
        webhook.type = discord.WebhookType.application  # discord.py assumes another one, which has no private messages
        webhook.proxy = self._client.http.proxy  # discord.py uses the client's session without its proxy
        return webhook

    async def wait_for_edit_slot(self, job_message: JobMessage) -> None:
        """Wait until the message may be edited within its channel's rate limit."""
        if self.has_token(job_message):
            return
        now = time.monotonic()
        start = max(now, self._next_edit.get(job_message.channel_id, 0.0))
        self._next_edit[job_message.channel_id] = start + CHANNEL_PACE_S
        if len(self._next_edit) > 1000:
            self._next_edit = {channel: when for channel, when in self._next_edit.items() if when > now}
        await asyncio.sleep(start - now)

    def _mark_token_expired(self, job_message: JobMessage) -> None:
        """Stop using a token that Discord rejected before its time."""
        if len(self._expired_tokens) > 1000:
            self._expired_tokens.clear()
        if job_message.token is not None:
            self._expired_tokens.add(job_message.token)

    async def show(self, job_message: JobMessage, card: Card, *, picture: Path | None = None) -> None:
        """Edit the job's message to show this card. Raises errors for `classify_failure`."""
        files = discord.utils.MISSING if picture is None else [picture]
        await self._with_allowed_content(job_message, card, lambda allowed: self._show(job_message, allowed, files))

    async def show_without_files(self, job_message: JobMessage, card: Card) -> None:
        """Edit the job's message as `show` does, and remove its files."""
        await self._with_allowed_content(job_message, card, lambda allowed: self._show(job_message, allowed, []))

    async def delete(self, job_message: JobMessage, channel_id: int, message_id: int) -> bool:
        """Delete a message about the job, by its token where the channel is closed; return whether it is gone.

        Raises transient errors.
        """
        calls: list[Callable[[], Awaitable[None]]] = []
        if not job_message.is_private or channel_id != job_message.channel_id:
            calls.append(self.message(channel_id, message_id).delete)
        if self.has_token(job_message):
            calls.append(lambda: self.webhook(job_message).delete_message(message_id))
        for call in calls:
            try:
                await retry_on_disconnect(call)
            except discord.HTTPException as error:
                kind = classify_failure(error)
                if kind is FailureKind.TRANSIENT:
                    raise
                if kind is not FailureKind.GONE:
                    continue
            return True
        return False

    async def _with_allowed_content(
        self, job_message: JobMessage, card: Card, call: Callable[[Card], Awaitable[T]]
    ) -> T:
        """Call with the card; if Discord refuses that, without link buttons, then without title and links."""
        plain, job_id = without_title_and_links(card), job_message.job_id
        if job_id in self._blocked_titles:
            return await call(plain)
        for candidate in (card, *([without_link_buttons(card)] if card.links else [])):
            try:
                return await call(candidate)
            except discord.HTTPException as error:
                if classify_failure(error) is not FailureKind.MALFORMED:
                    raise
                log.warning("Discord refused a card (%s), sending less of it", error.text)
        result = await call(plain)
        self._blocked_titles = {*list(self._blocked_titles)[-1000:], job_id}
        return result

    async def _show(self, job_message: JobMessage, card: Card, files: Any) -> None:
        message_id = job_message.message_id
        assert message_id is not None
        view = layout(card, job_message.job_id)

        def attachments() -> Any:
            if not files:
                return files  # MISSING keeps the files of the message
            return [discord.File(path, filename=PICTURE, description=card.picture or None) for path in files]

        if self.has_token(job_message):
            webhook = self.webhook(job_message)
            target: Any = "@original" if job_message.original else message_id
            try:
                await retry_on_disconnect(lambda: webhook.edit_message(target, attachments=attachments(), view=view))
            except discord.HTTPException as error:
                kind = classify_failure(error)
                if kind is FailureKind.TOKEN_EXPIRED:
                    self._mark_token_expired(job_message)
                elif kind is not FailureKind.NO_ACCESS or not job_message.reachable:
                    raise
                await self.wait_for_edit_slot(job_message)
            else:
                return
        message = self.channel(job_message).get_partial_message(message_id)
        async with self.channel_lock(job_message.channel_id, "edit"):
            await retry_on_disconnect(lambda: message.edit(attachments=attachments(), view=view))

    async def post(self, job_message: JobMessage, card: Card, *, nonce: str) -> discord.Message:
        """Send the job's message for the first time, as a reply to `job_message.reply_to`."""

        async def send_card(allowed: Card) -> discord.Message:
            channel, view = self.channel(job_message), layout(allowed, job_message.job_id)
            async with self.channel_lock(job_message.channel_id, "send"):
                return await send(channel, job_message.reply_to, lambda: {"view": view, "nonce": nonce})

        return await self._with_allowed_content(job_message, card, send_card)


async def send(
    channel: discord.PartialMessageable | discord.DMChannel,
    reply_to: int | None,
    parts: Callable[[], dict[str, Any]],
) -> discord.Message:
    """Send a message as a reply, or as a plain message if the bot may not reply.

    `parts` returns the arguments of `send`; it is called for each attempt, because files can be read only once.
    """
    if reply_to is not None:
        reference = discord.MessageReference(message_id=reply_to, channel_id=channel.id, fail_if_not_exists=False)
        try:
            return await retry_on_disconnect(lambda: channel.send(**parts(), reference=reference, mention_author=False))
        except discord.HTTPException as error:
            if error.code != CANNOT_REPLY:
                raise
    return await retry_on_disconnect(lambda: channel.send(**parts()))
