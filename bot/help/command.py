"""`/help` and `/privacy`."""

from __future__ import annotations

import discord
from discord import app_commands

from bot.client import Stemify
from bot.help import text
from bot.messages.messenger import retry_on_disconnect


@app_commands.command(name="help", description=text.HELP_DESCRIPTION)
async def help_command(interaction: discord.Interaction[Stemify]) -> None:
    bot, guild_id = interaction.client, interaction.guild_id
    answer = text.help_text(
        bot.settings,
        bot.defaults(guild_id),
        operator_of(bot),
        bot.database.servers.of(guild_id).jobs_per_hour,
        has_voice=bot.voice is not None,
    )
    await _answer(interaction, answer)


@app_commands.command(name="privacy", description=text.PRIVACY_DESCRIPTION)
async def privacy_command(interaction: discord.Interaction[Stemify]) -> None:
    await _answer(interaction, text.privacy_text(interaction.client.settings, operator_of(interaction.client)))


def operator_of(bot: Stemify) -> str:
    """Return who runs the bot."""
    info = bot.application
    team = info.team.name if info is not None and info.team is not None else None
    owner = info.owner.mention if info is not None and info.owner is not None else None
    return text.operator_name(bot.settings.discord.contact, team, owner)


async def _answer(interaction: discord.Interaction[Stemify], answer: str) -> None:
    await retry_on_disconnect(lambda: interaction.response.send_message(answer, ephemeral=True))
