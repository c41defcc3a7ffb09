"""How messages reach Discord, and what its refusals mean for a job's message.

A job's message is edited with its interaction's token while that lives (15 minutes; such edits cost no global rate
limit and work where the bot itself is no member), then as an ordinary message of the channel.
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

from bot.buttons import layout
from bot.cards import PICTURE, Card, without_link_buttons
from bot.database import JobMessage

log = logging.getLogger(__name__)
T = TypeVar("T")

CANNOT_REPLY = 160002  # without the permission to read the history
CHANNEL_PACE_S = 1.3  # between edits by the channel route: Discord takes 5 in 5 s, 3 in 6 s of old messages
PAUSES_S = (0.5, 1.0, 2.0, 4.0)


class FailureKind(Enum):
    TOKEN_OVER = auto()
    GONE = auto()  # somebody deleted the message
    NO_ACCESS = auto()  # channel gone, bot thrown out, permission missing, direct messages closed
    TOO_LARGE = auto()
    MALFORMED = auto()
    TRANSIENT = auto()
    OTHER = auto()


_BY_CODE = {
    50027: FailureKind.TOKEN_OVER,
    10015: FailureKind.TOKEN_OVER,
    10008: FailureKind.GONE,
    10003: FailureKind.NO_ACCESS,
    10004: FailureKind.NO_ACCESS,
    50001: FailureKind.NO_ACCESS,
    50007: FailureKind.NO_ACCESS,
    50013: FailureKind.NO_ACCESS,
    50083: FailureKind.NO_ACCESS,  # archived thread
    160005: FailureKind.NO_ACCESS,  # locked thread
    40094: FailureKind.TOKEN_OVER,  # a user's app may send 5 follow-ups where the bot is not a member
    40005: FailureKind.TOO_LARGE,
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
    """Call again after a broken connection. (discord.py does so for 429 and 5xx, but for resets only on macOS and
    Windows.) `repeatable` false: what may have been carried out is not asked for twice."""
    for pause_s in PAUSES_S:
        try:
            return await call()
        except discord.HTTPException:
            raise
        except (aiohttp.ClientConnectionError, OSError) as error:
            never_sent = isinstance(error, aiohttp.ClientConnectorError)
            if not repeatable and not never_sent:
                raise
            log.info("discord connection broke (%s), trying again in %s s", type(error).__name__, pause_s)
            await asyncio.sleep(pause_s)
    return await call()


class Messenger:
    def __init__(self, client: discord.Client) -> None:
        self._client = client
        self._next_edit: dict[int, float] = {}
        self._dead_tokens: set[str] = set()
        self._doors: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()

    def channel_lock(self, channel_id: int, kind: Literal["edit", "send"]) -> asyncio.Lock:
        """One request of a kind at a time for each channel: several that wait for one bucket of discord.py's rate
        limiter can miss their wake-up, and then sleep for 30 s."""
        return self._doors.setdefault((channel_id, kind), asyncio.Lock())

    def by_token(self, posting: JobMessage) -> bool:
        """Whether the posting's interaction still opens its message."""
        return posting.token_alive and posting.token not in self._dead_tokens

    def channel(self, posting: JobMessage) -> discord.PartialMessageable:
        return self._client.get_partial_messageable(posting.channel_id, guild_id=posting.guild_id)

    def webhook(self, posting: JobMessage) -> discord.Webhook:
        assert posting.token is not None
        application = self._client.application_id
        assert application is not None
        hook = discord.Webhook.partial(application, posting.token, client=self._client)
        hook.proxy = self._client.http.proxy  # discord.py takes the client's session without its proxy
        return hook

    async def wait_for_edit_slot(self, posting: JobMessage) -> None:
        """Wait until this posting may be edited, if its channel's other messages leave no room just now."""
        if self.by_token(posting):
            return
        now = time.monotonic()
        at = max(now, self._next_edit.get(posting.channel_id, 0.0))
        self._next_edit[posting.channel_id] = at + CHANNEL_PACE_S
        if len(self._next_edit) > 1000:
            self._next_edit = {channel: when for channel, when in self._next_edit.items() if when > now}
        await asyncio.sleep(at - now)

    def _gave_up(self, posting: JobMessage) -> None:
        """Discord says that the token is over, whatever the clock says."""
        if len(self._dead_tokens) > 1000:
            self._dead_tokens.clear()
        if posting.token is not None:
            self._dead_tokens.add(posting.token)

    async def show(self, posting: JobMessage, card: Card, *, picture: Path | None = None) -> None:
        """Bring the job's message to this card. Raises what `trouble` can name when it cannot be done."""
        try:
            await self._show(posting, card, picture)
        except discord.HTTPException as error:
            if classify_failure(error) is not FailureKind.MALFORMED or not card.links:
                raise
            log.warning("discord refused a card with link buttons (%s); links go into the text", error.text)
            await self._show(posting, without_link_buttons(card), picture)

    async def _show(self, posting: JobMessage, card: Card, picture: Path | None) -> None:
        message_id = posting.message_id
        assert message_id is not None
        view = layout(card, posting.job_id)

        def attached() -> list[discord.File]:
            return [discord.File(picture, filename=PICTURE)] if picture is not None else discord.utils.MISSING

        if self.by_token(posting):
            hook = self.webhook(posting)
            target: Any = "@original" if posting.original else message_id
            try:
                await retry_on_disconnect(lambda: hook.edit_message(target, attachments=attached(), view=view))
            except discord.HTTPException as error:
                if classify_failure(error) is not FailureKind.TOKEN_OVER:
                    raise
                self._gave_up(posting)
                await self.wait_for_edit_slot(posting)
            else:
                return
        message = self.channel(posting).get_partial_message(message_id)
        async with self.channel_lock(posting.channel_id, "edit"):
            await retry_on_disconnect(lambda: message.edit(attachments=attached(), view=view))

    async def post(self, posting: JobMessage, card: Card, *, nonce: str) -> discord.Message:
        """Send the job's message where none is there yet, as an answer to `posting.reply_to`."""
        channel, view = self.channel(posting), layout(card, posting.job_id)
        async with self.channel_lock(posting.channel_id, "send"):
            return await send(channel, posting.reply_to, lambda: {"view": view, "nonce": nonce})


async def send(
    channel: discord.PartialMessageable | discord.DMChannel,
    reply_to: int | None,
    parts: Callable[[], dict[str, Any]],
) -> discord.Message:
    """Send a message as a reply, or as a plain message where the bot cannot reply. `parts` makes the message; it is
    called for each attempt, because files can be read only once."""
    if reply_to is not None:
        reference = discord.MessageReference(message_id=reply_to, channel_id=channel.id, fail_if_not_exists=False)
        try:
            return await retry_on_disconnect(lambda: channel.send(**parts(), reference=reference, mention_author=False))
        except discord.HTTPException as error:
            if error.code != CANNOT_REPLY:
                raise
    return await retry_on_disconnect(lambda: channel.send(**parts()))
