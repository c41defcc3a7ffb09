"""Who may see a job, and who may use its buttons."""

from __future__ import annotations

import discord

from bot.client import Stemify
from bot.commands.stemify import owner_of
from engine.errors import NotAllowed, NotFound
from engine.jobs.job import JobView


def is_owner(interaction: discord.Interaction[Stemify], view: JobView) -> bool:
    return view.job.owner == owner_of(interaction.user)


def is_same_channel(interaction: discord.Interaction[Stemify], view: JobView) -> bool:
    return view.job.place is not None and view.job.place == f"discord:{interaction.channel_id}"


def check_owner(interaction: discord.Interaction[Stemify], view: JobView) -> None:
    if not is_owner(interaction, view):
        raise NotAllowed


def check_can_see(interaction: discord.Interaction[Stemify], view: JobView) -> None:
    """Raise unless the user owns the job or is in the channel in which it was created."""
    if not is_owner(interaction, view) and not is_same_channel(interaction, view):
        raise NotFound  # do not reveal jobs of other channels


def may_delete(interaction: discord.Interaction[Stemify], view: JobView) -> bool:
    """Return whether the user owns the job or moderates this channel."""
    moderates = interaction.guild_id is not None and interaction.permissions.manage_messages
    return is_owner(interaction, view) or moderates


def check_can_delete(interaction: discord.Interaction[Stemify], view: JobView) -> None:
    """Raise unless the user owns the job or moderates the channel in which it was created."""
    check_can_see(interaction, view)
    if not may_delete(interaction, view):
        raise NotAllowed
