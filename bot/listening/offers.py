"""Offers under posted songs: one press starts a job, and the offer becomes a link to it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import discord

from bot.cards.text import KARAOKE
from bot.client import Stemify
from bot.commands.stemify import start_jobs
from bot.database.listening import Offer
from bot.forms.form import FilledForm, message_subject
from bot.forms.options_form import chosen_options, start_form
from bot.listening import text
from bot.listening.songs import posted_songs
from bot.messages.messenger import retry_on_disconnect, send
from bot.messages.responses import acknowledge, run_guarded
from bot.submission.songs import Source, audio_attachments, fetch_message, source_of
from bot.submission.text import SOURCE_GONE
from engine.errors import InvalidState, NotFound

log = logging.getLogger(__name__)

ALL = "all"


async def post_offer(bot: Stemify, message: discord.Message, songs: Sequence[Source]) -> None:
    """Reply with a button that splits all songs of the message. Raises Discord's errors."""
    count = len(songs)
    view = discord.ui.View(timeout=None)
    for kind, label in ((None, text.split(count)), ("karaoke", KARAOKE), ("more", text.MORE)):
        view.add_item(SplitButton(message.channel.id, message.id, ALL, label, kind))
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


async def _ask(interaction: discord.Interaction[Stemify], channel_id: int, message_id: int) -> None:
    """Answer with a form. Raises `InvalidState` if the offer was used, or `NotAllowed`."""
    bot = interaction.client
    bot.rules.check_may_start_here(interaction)
    await _check_unused(bot, message_id, ALL)
    subject = message_subject(channel_id, message_id)
    form = start_form("offer", subject, bot.options(interaction.guild_id), bot.service.models())
    await retry_on_disconnect(lambda: interaction.response.send_modal(form))


async def split_chosen(interaction: discord.Interaction[Stemify], form: FilledForm) -> None:
    """Split the songs of an offer with the options of a form. Raises `StemifyError`."""
    await _split(interaction, *form.message, ALL, chosen_options(form.values))


async def _check_unused(bot: Stemify, message_id: int, songs: str) -> None:
    """Raise `InvalidState` if another press has started a job, or is about to."""
    offer = await bot.database.listening.offer(message_id)
    if offer is not None and offer.url is not None and songs == ALL:
        raise InvalidState(text.already_made(offer.url))
    if (message_id, songs) in bot.offers_in_use:
        raise InvalidState(text.ALREADY_BEING_CHECKED)


async def _split(
    interaction: discord.Interaction[Stemify],
    channel_id: int,
    message_id: int,
    songs: str,
    chosen: Mapping[str, object],
) -> None:
    """Start a job with the chosen options. Raises `StemifyError`."""
    bot, key = interaction.client, (message_id, songs)
    await _check_unused(bot, message_id, songs)
    bot.offers_in_use.add(key)
    try:
        answer_id = await acknowledge(interaction, thinking=True)
        sources = await _sources(interaction, channel_id, message_id, songs)
        options = bot.options(interaction.guild_id, **chosen)
        await start_jobs(interaction, sources, options, source_id=message_id, answer_id=answer_id)
        if songs == ALL:
            await _link(interaction, message_id, answer_id)
    finally:
        bot.offers_in_use.discard(key)


async def _sources(
    interaction: discord.Interaction[Stemify], channel_id: int, message_id: int, songs: str
) -> list[Source]:
    """Return the songs, from the message itself: the URLs of attachments expire, and it may have been deleted."""
    channel = interaction.client.get_partial_messageable(channel_id, guild_id=interaction.guild_id)
    message = await fetch_message(channel, message_id)
    if songs != ALL:
        sources: list[Source] = [source_of(file) for file in audio_attachments(message)[int(songs) :][:1]]
    else:
        sources = posted_songs(message)
    if not sources:
        raise NotFound(SOURCE_GONE)
    return sources


async def _link(interaction: discord.Interaction[Stemify], source_id: int, answer_id: int) -> None:
    """Turn the offer into a link to the message of the job."""
    assert interaction.message is not None
    bot, channel_id = interaction.client, interaction.channel_id or 0
    url = f"https://discord.com/channels/{interaction.guild_id or '@me'}/{channel_id}/{answer_id}"
    offer = Offer(source_id, channel_id, interaction.message.id)
    await bot.database.listening.add_offer(replace(offer, url=url))
    view = discord.ui.View(timeout=None)
    view.add_item(discord.ui.Button(label=text.GO_TO_STEMS, url=url))
    message = bot.messages.message(channel_id, interaction.message.id)
    try:
        await retry_on_disconnect(lambda: message.edit(content=text.SPLIT, view=view))
    except discord.HTTPException as error:
        log.info("could not edit an offer", extra={"channel": channel_id, "reason": error.text})


class SplitButton(
    discord.ui.DynamicItem[discord.ui.Button[Any]],
    template=r"stemify:split:(?P<channel>\d+):(?P<message>\d+):(?P<songs>\d|all)(?::(?P<kind>karaoke|more))?",
):
    """A button under posted audio; the user who presses it owns the job.

    `songs`: all, or in messages of earlier versions the position of one. `kind`: more opens a form.
    """

    def __init__(self, channel_id: int, message_id: int, songs: str, label: str, kind: str | None = None) -> None:
        custom_id = f"stemify:split:{channel_id}:{message_id}:{songs}{f':{kind}' if kind else ''}"
        style = discord.ButtonStyle.secondary if kind else discord.ButtonStyle.primary
        super().__init__(discord.ui.Button(label=label, style=style, custom_id=custom_id))
        self.channel_id, self.message_id, self.songs, self.kind = channel_id, message_id, songs, kind

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        assert isinstance(item, discord.ui.Button)
        return cls(int(match["channel"]), int(match["message"]), match["songs"], item.label or "", match["kind"])

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        if self.kind == "more":
            answer = _ask(interaction, self.channel_id, self.message_id)
        else:
            answer = _split(
                interaction, self.channel_id, self.message_id, self.songs, {"karaoke": self.kind == "karaoke"}
            )
        await run_guarded(interaction, answer)
