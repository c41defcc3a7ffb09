"""The actions of the buttons of a batch."""

from __future__ import annotations

from contextlib import suppress

import discord

from bot.cards.buttons import ConfirmDelete
from bot.client import Stemify
from bot.commands import text
from bot.commands.answers import show_deletion
from bot.database.database import JobMessage
from bot.messages.responses import acknowledge
from engine.errors import NotAllowed, NotFound


async def _batch_of(interaction: discord.Interaction[Stemify], batch_id: str) -> JobMessage:
    """Return the batch. Raises `NotFound`, or `NotAllowed` unless the user owns the batch or moderates its channel."""
    batch = await interaction.client.database.job_message(batch_id)
    if batch is None or not batch.is_batch:
        raise NotFound
    moderates = interaction.guild_id is not None and interaction.permissions.manage_messages
    if batch.user_id != interaction.user.id and not (moderates and batch.channel_id == interaction.channel_id):
        raise NotAllowed
    return batch


async def cancel_batch(interaction: discord.Interaction[Stemify], batch_id: str) -> None:
    """Cancel the songs that have not ended."""
    await acknowledge(interaction)
    bot, batch = interaction.client, await _batch_of(interaction, batch_id)
    bot.progress.cancel_submission(batch_id)
    for song in await bot.database.batches.songs(batch_id):
        with suppress(NotFound):
            await bot.service.cancel(song.job_id, by=batch.owner)


async def ask_to_delete_batch(interaction: discord.Interaction[Stemify], batch_id: str) -> None:
    await _batch_of(interaction, batch_id)
    view = ConfirmDelete(batch_id, "confirm_delete_all")
    await interaction.response.send_message(text.ASK_DELETE_BATCH, view=view, ephemeral=True)


async def delete_batch(interaction: discord.Interaction[Stemify], batch_id: str) -> None:
    await acknowledge(interaction)
    batch = await _batch_of(interaction, batch_id)
    await show_deletion(interaction, await interaction.client.deletion.delete_batch(batch))
