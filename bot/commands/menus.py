"""The message menus: split the songs of a message, at once or with the options of a form."""

from __future__ import annotations

import discord
from discord import app_commands

from bot.cards.text import KARAOKE
from bot.client import Stemify
from bot.commands import text
from bot.commands.stemify import start_jobs
from bot.forms.form import FilledForm, message_subject
from bot.forms.options_form import chosen_options, start_form
from bot.messages.messenger import retry_on_disconnect
from bot.messages.responses import acknowledge
from bot.submission.songs import Source, fetch_message, songs_in
from engine.errors import InputRefused

_KEPT_MESSAGES = 100


@app_commands.context_menu(name=text.STEMIFY)
async def stemify_menu(interaction: discord.Interaction[Stemify], message: discord.Message) -> None:
    songs, options = _songs_of(message), interaction.client.options(interaction.guild_id)
    await start_jobs(interaction, songs, options, source_id=message.id)


@app_commands.context_menu(name=KARAOKE)
async def karaoke_menu(interaction: discord.Interaction[Stemify], message: discord.Message) -> None:
    songs, options = _songs_of(message), interaction.client.options(interaction.guild_id, karaoke=True)
    await start_jobs(interaction, songs, options, source_id=message.id)


@app_commands.context_menu(name=text.WITH_OPTIONS)
async def options_menu(interaction: discord.Interaction[Stemify], message: discord.Message) -> None:
    bot, songs = interaction.client, _songs_of(message)
    bot.rules.check_may_start_here(interaction)
    bot.menu_songs = dict([*bot.menu_songs.items(), (message.id, songs)][-_KEPT_MESSAGES:])
    subject = message_subject(message.channel.id, message.id)
    form = start_form("menu", subject, bot.options(interaction.guild_id), bot.service.models())
    await retry_on_disconnect(lambda: interaction.response.send_modal(form))


async def start_chosen(interaction: discord.Interaction[Stemify], form: FilledForm) -> None:
    """Start jobs with the songs of a message and the options of a form. Raises `StemifyError`."""
    answer_id = await acknowledge(interaction, thinking=True)
    bot, (channel_id, message_id) = interaction.client, form.message
    songs = bot.menu_songs.get(message_id)
    if songs is None:  # the bot has restarted
        channel = bot.get_partial_messageable(channel_id, guild_id=interaction.guild_id)
        songs = _songs_of(await fetch_message(channel, message_id))
    options = bot.options(interaction.guild_id, **chosen_options(form.values))
    await start_jobs(interaction, songs, options, source_id=message_id, answer_id=answer_id)


def _songs_of(message: discord.Message) -> list[Source]:
    """Return the songs of a message. Raises `InputRefused` without one."""
    if not (songs := songs_in(message)):
        raise InputRefused(text.NO_AUDIO)
    return songs
