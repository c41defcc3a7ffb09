"""Offers under posted songs: one press starts a job, and the offer becomes a link to it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import discord

from bot.cards.text import KARAOKE
from bot.client import Stemify
from bot.commands.stemify import start_jobs
from bot.database.listening import Offer
from bot.listening import text
from bot.listening.songs import posted_songs
from bot.messages.messenger import retry_on_disconnect, send
from bot.messages.responses import acknowledge, run_guarded
from bot.submission.songs import Source, audio_attachments, source_of
from engine.errors import InvalidState, NotFound

log = logging.getLogger(__name__)

ALL = "all"


async def post_offer(bot: Stemify, message: discord.Message, songs: Sequence[Source]) -> None:
    """Reply with a button that splits all songs of the message. Raises Discord's errors."""
    count = len(songs)
    view = discord.ui.View(timeout=None)
    for is_karaoke, label in ((False, text.split(count)), (True, KARAOKE)):
        view.add_item(SplitButton(message.channel.id, message.id, ALL, label, is_karaoke=is_karaoke))
    content = text.offer(count)
    channel = bot.get_partial_messageable(message.channel.id)
    sent = await send(channel, message.id, lambda: {"content": content, "view": view, "nonce": f"o{message.id}"})
    await bot.database.listening.add_offer(Offer(message.id, message.channel.id, sent.id))


async def delete_offer(bot: Stemify, source_id: int) -> None:
    """Delete the offer under a message that was deleted."""
    offer = await bot.database.listening.offer(source_id)
    if offer is None:
        return
    try:
        await retry_on_disconnect(bot.messages.message(offer.channel_id, offer.message_id).delete)
    except discord.HTTPException as error:
        log.info("could not delete an offer", extra={"channel": offer.channel_id, "reason": error.text})
    await bot.database.listening.delete_offer(source_id)


class SplitButton(
    discord.ui.DynamicItem[discord.ui.Button[Any]],
    template=r"stemify:split:(?P<channel>\d+):(?P<message>\d+):(?P<songs>\d|all)(?P<karaoke>:karaoke)?",
):
    """A button under posted audio; the user who presses it owns the job.

    `songs`: all, or in messages of earlier versions the position of one.
    """

    def __init__(self, channel_id: int, message_id: int, songs: str, label: str, *, is_karaoke: bool) -> None:
        custom_id = f"stemify:split:{channel_id}:{message_id}:{songs}{':karaoke' if is_karaoke else ''}"
        style = discord.ButtonStyle.secondary if is_karaoke else discord.ButtonStyle.primary
        super().__init__(discord.ui.Button(label=label, style=style, custom_id=custom_id))
        self.channel_id, self.message_id, self.songs, self.is_karaoke = channel_id, message_id, songs, is_karaoke

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        assert isinstance(item, discord.ui.Button)
        ids = int(match["channel"]), int(match["message"])
        return cls(*ids, match["songs"], item.label or "", is_karaoke=match["karaoke"] is not None)

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        await run_guarded(interaction, self._split(interaction))

    async def _split(self, interaction: discord.Interaction[Stemify]) -> None:
        """Start a job. Raises `InvalidState` if another press has already done so."""
        bot, key = interaction.client, (self.message_id, self.songs)
        offer = await bot.database.listening.offer(self.message_id)
        if offer is not None and offer.url is not None and self.songs == ALL:
            raise InvalidState(text.already_made(offer.url))
        if key in bot.offers_in_use:
            raise InvalidState(text.ALREADY_BEING_CHECKED)
        bot.offers_in_use.add(key)
        try:
            answer_id = await acknowledge(interaction, thinking=True)
            songs, options = await self._songs(interaction), bot.options(interaction.guild_id, karaoke=self.is_karaoke)
            await start_jobs(interaction, songs, options, source_id=self.message_id, answer_id=answer_id)
            if self.songs == ALL:
                await self._link(interaction, answer_id)
        finally:
            bot.offers_in_use.discard(key)

    async def _songs(self, interaction: discord.Interaction[Stemify]) -> list[Source]:
        """Return the songs, from the message itself: the URLs of attachments expire, and it may have been deleted."""
        channel = interaction.client.get_partial_messageable(self.channel_id, guild_id=interaction.guild_id)
        try:
            message = await retry_on_disconnect(lambda: channel.fetch_message(self.message_id))
        except (discord.NotFound, discord.Forbidden):
            raise NotFound(text.SOURCE_GONE) from None
        if self.songs != ALL:
            files = audio_attachments(message)[int(self.songs) :]
            songs: list[Source] = [source_of(file) for file in files[:1]]
        else:
            songs = posted_songs(message)
        if not songs:
            raise NotFound(text.SOURCE_GONE)
        return songs

    async def _link(self, interaction: discord.Interaction[Stemify], answer_id: int) -> None:
        """Turn the offer into a link to the message of the job."""
        assert interaction.message is not None
        bot, channel_id = interaction.client, interaction.channel_id or 0
        url = f"https://discord.com/channels/{interaction.guild_id or '@me'}/{channel_id}/{answer_id}"
        offer = Offer(self.message_id, channel_id, interaction.message.id)
        await bot.database.listening.add_offer(replace(offer, url=url))
        view = discord.ui.View(timeout=None)
        view.add_item(discord.ui.Button(label=text.GO_TO_STEMS, url=url))
        message = bot.messages.message(channel_id, interaction.message.id)
        try:
            await retry_on_disconnect(lambda: message.edit(content=text.SPLIT, view=view))
        except discord.HTTPException as error:
            log.info("could not edit an offer", extra={"channel": channel_id, "reason": error.text})
