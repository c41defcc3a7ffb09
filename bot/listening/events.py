"""React to posted and deleted messages."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime

import discord

from bot.client import Stemify
from bot.database.database import JobMessage
from bot.listening.offers import delete_offer, post_offer
from bot.listening.songs import MIN_DURATION_S, posted_songs
from bot.messages.messenger import FailureKind, classify_failure, send
from bot.messages.text import error_text
from bot.rules.operator import is_allowed
from bot.submission.batch import submit_batch
from bot.submission.songs import Source
from bot.submission.submission import submit
from engine.errors import NotAllowed, NotFound, StemifyError
from engine.jobs.entity import new_job_id
from engine.service.errors import TooShort

log = logging.getLogger(__name__)


async def on_message(bot: Stemify, message: discord.Message) -> None:
    """Offer to split the songs of a new message, or start jobs, as its channel is set."""
    if message.author.bot or message.webhook_id is not None:
        return
    mode = "button" if message.guild is None else _mode(bot, message.channel)
    guild_id = message.guild.id if message.guild is not None else None
    if mode not in ("button", "auto") or not is_allowed(bot.settings.discord, guild_id):
        return
    if not bot.rules.may_start_in(guild_id, message.channel) or not (songs := posted_songs(message)):
        return
    try:
        if mode == "button":
            await post_offer(bot, message, songs)
        else:
            await _start(bot, message, songs)
    except discord.HTTPException as error:
        if classify_failure(error) not in (FailureKind.NO_ACCESS, FailureKind.GONE):
            raise
        log.info("cannot reply", extra={"channel": message.channel.id, "reason": error.text})


def _mode(bot: Stemify, channel: discord.abc.MessageableChannel) -> str | None:
    """Return the mode of a channel; that of a thread precedes that of its channel."""
    own = bot.listening.get(channel.id)
    if own is None and isinstance(channel, discord.Thread):
        return bot.listening.get(channel.parent_id)
    return own


async def _start(bot: Stemify, message: discord.Message, songs: list[Source]) -> None:
    assert message.guild is not None
    try:
        jobs_per_hour = bot.rules.check_may_start(message.guild.id, message.channel, message.author)
    except NotAllowed as error:
        return log.info("audio ignored", extra={"channel": message.channel.id, "reason": error.message})
    job_message = JobMessage(
        job_id=new_job_id(),
        user_id=message.author.id,
        channel_id=message.channel.id,
        guild_id=message.guild.id,
        reply_to=message.id,
        limit_bytes=message.guild.filesize_limit,
        jobs_per_hour=jobs_per_hour,
    )
    try:
        options = bot.options(message.guild.id)
        if len(songs) == 1:
            await submit(bot, job_message, songs[0], options, min_duration_s=MIN_DURATION_S)
        else:
            await submit_batch(bot, job_message, songs, options, min_duration_s=MIN_DURATION_S)
    except (NotAllowed, TooShort) as error:  # the user did not ask for anything
        log.info("audio ignored", extra={"channel": message.channel.id, "reason": error.message})
    except StemifyError as error:
        if not bot.refusal_notices.allow(message.author.id):
            return None
        answer = error_text(error, datetime.now(UTC))
        await send(bot.get_partial_messageable(message.channel.id), message.id, lambda: {"content": answer})


async def on_messages_deleted(bot: Stemify, message_ids: Iterable[int]) -> None:
    """End the unfinished jobs of deleted messages: those about a job, and those from which a job was started."""
    for message_id in message_ids:
        await delete_offer(bot, message_id)
        for job_message in await bot.database.unfinished_about(message_id):
            log.info("the job's message was deleted, ending the job", extra={"job": job_message.job_id})
            with suppress(NotFound):
                await bot.deletion.end(job_message)
