"""`/play`, and the button *Play in voice* of a card."""

from __future__ import annotations

import discord
from discord import app_commands

from bot.client import Stemify
from bot.commands import text
from bot.commands.job_list import job_choices
from bot.commands.permissions import check_can_see
from bot.commands.stemify import owner_of
from bot.messages.messenger import retry_on_disconnect
from bot.messages.responses import acknowledge
from bot.voice.state import QueuedSong
from engine.errors import InvalidState, StemifyError


async def play_job(interaction: discord.Interaction[Stemify], job_id: str) -> None:
    """Play a job in the voice channel of the user who asks. Raises `StemifyError`."""
    await acknowledge(interaction, thinking=True, ephemeral=True)
    bot, guild = interaction.client, interaction.guild
    if bot.voice is None:
        raise StemifyError(text.NO_VOICE)
    if guild is None or bot.get_guild(guild.id) is None:
        raise InvalidState(text.NOT_A_MEMBER)
    view = await bot.service.get(job_id)
    check_can_see(interaction, view)
    bot.rules.check_may_start_here(interaction)
    bot.rules.check_may_mix(interaction, view.job.owner)
    title = text.PRIVATE_SONG if view.job.place is None else view.job.title
    song = QueuedSong(job_id=view.job.id, title=title, owner=owner_of(interaction.user))
    assert isinstance(interaction.channel, discord.abc.Messageable)
    answer = await bot.voice.play(guild, interaction.user.id, song, interaction.channel)
    await retry_on_disconnect(lambda: interaction.edit_original_response(content=answer))


@app_commands.command(name="play", description=text.PLAY_DESCRIPTION)
@app_commands.describe(job=text.YOUR_JOB)
@app_commands.guild_only()
async def play_command(interaction: discord.Interaction[Stemify], job: str) -> None:
    await play_job(interaction, job)


@play_command.autocomplete("job")
async def _complete_job(interaction: discord.Interaction[Stemify], current: str) -> list[app_commands.Choice[str]]:
    return await job_choices(interaction, current)
