"""`/help` and `/privacy`."""

from __future__ import annotations

import discord
from discord import app_commands

from bot.client import Stemify
from bot.help.text import help_text, operator_name, privacy_text
from bot.messages.messenger import retry_on_disconnect


@app_commands.command(name="help", description="How to split songs, with the limits and defaults that apply here")
async def help_command(interaction: discord.Interaction[Stemify]) -> None:
    bot, guild_id = interaction.client, interaction.guild_id
    server = bot.database.servers.of(guild_id)
    await _answer(interaction, help_text(bot.settings, bot.defaults(guild_id), operator_of(bot), server.jobs_per_hour))


@app_commands.command(name="privacy", description="What is stored, where, how long, and who can hear it")
async def privacy_command(interaction: discord.Interaction[Stemify]) -> None:
    await _answer(interaction, privacy_text(interaction.client.settings, operator_of(interaction.client)))


def operator_of(bot: Stemify) -> str:
    """Return who runs the bot."""
    info = bot.application
    owner = "an operator who gives no name"
    if info is not None and info.team is not None:
        owner = f"the team {discord.utils.escape_markdown(info.team.name)}"
    elif info is not None and info.owner is not None:
        owner = info.owner.mention
    return operator_name(bot.settings.discord.contact, owner)


async def _answer(interaction: discord.Interaction[Stemify], text: str) -> None:
    await retry_on_disconnect(lambda: interaction.response.send_message(text, ephemeral=True))
