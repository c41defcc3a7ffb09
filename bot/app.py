"""Create the Discord client with its commands, buttons and events."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import discord

from bot.cards.buttons import DeleteEverythingButton, JobButton
from bot.client import Stemify
from bot.commands.comparison import compare_models
from bot.commands.job import JobCommands, delete_everything, run_action
from bot.commands.job_list import JobListButton
from bot.commands.menus import karaoke_menu, options_menu, start_chosen, stemify_menu
from bot.commands.play import play_command
from bot.commands.result import post_asked_mix, separate_again
from bot.commands.stemify import describe_options, stemify_command
from bot.database.database import BotDatabase
from bot.forms.form import FilledForm, FormName, filled_form
from bot.help.command import help_command, privacy_command
from bot.help.welcome import invite_url, welcome
from bot.listening import events
from bot.listening.command import listen_command
from bot.listening.offers import SplitButton, split_chosen
from bot.messages.responses import run_guarded
from bot.servers.command import SettingsCommands
from bot.voice.control import VoiceButton
from config.settings import Settings
from engine.backend import Backend

log = logging.getLogger(__name__)

SUBMIT: dict[FormName, Callable[[discord.Interaction[Stemify], FilledForm], Awaitable[None]]] = {
    "mix": post_asked_mix,
    "again": separate_again,
    "compare": compare_models,
    "menu": start_chosen,
    "offer": split_chosen,
}
"""What a filled form does."""


def create_bot(settings: Settings, backend: Backend, database: BotDatabase, *, message_content: bool) -> Stemify:
    """Return a client that is not connected yet; `message_content`: request that privileged intent."""
    bot = Stemify(settings, backend, database, message_content=message_content)
    describe_options(settings)
    bot.tree.add_command(stemify_command)
    bot.tree.add_command(stemify_menu)
    bot.tree.add_command(karaoke_menu)
    bot.tree.add_command(options_menu)
    bot.tree.add_command(listen_command)
    bot.tree.add_command(JobCommands())
    bot.tree.add_command(SettingsCommands())
    bot.tree.add_command(help_command)
    bot.tree.add_command(privacy_command)
    bot.tree.add_command(play_command)
    bot.add_dynamic_items(JobButton, DeleteEverythingButton, JobListButton, SplitButton, VoiceButton)

    @bot.event
    async def on_ready() -> None:
        assert bot.application_id is not None
        log.info("connected to discord as %s, in %s servers", bot.user, len(bot.guilds))
        log.info("server managers add the bot with %s", invite_url(bot.application_id))
        if bot.voice is not None:
            await bot.voice.resume()

    @bot.event
    async def on_guild_join(guild: discord.Guild) -> None:
        await welcome(bot, guild)

    @bot.event
    async def on_message(message: discord.Message) -> None:
        await events.on_message(bot, message)

    @bot.event
    async def on_raw_message_delete(payload: discord.RawMessageDeleteEvent) -> None:
        await events.on_messages_deleted(bot, [payload.message_id])

    @bot.event
    async def on_raw_bulk_message_delete(payload: discord.RawBulkMessageDeleteEvent) -> None:
        await events.on_messages_deleted(bot, payload.message_ids)

    @bot.event
    async def on_job_button(interaction: discord.Interaction[Stemify], action: str, job_id: str) -> None:
        await run_guarded(interaction, run_action(interaction, action, job_id))

    @bot.event
    async def on_voice_button(interaction: discord.Interaction[Stemify], action: str) -> None:
        if bot.voice is not None:
            await run_guarded(interaction, bot.voice.press(interaction, action))

    @bot.event
    async def on_interaction(interaction: discord.Interaction[Stemify]) -> None:
        if (form := filled_form(interaction)) is not None:
            await run_guarded(interaction, SUBMIT[form.name](interaction, form))

    @bot.event
    async def on_delete_everything_button(interaction: discord.Interaction[Stemify], user_id: int) -> None:
        await run_guarded(interaction, delete_everything(interaction, user_id))

    return bot
