"""Answers that several commands share."""

from __future__ import annotations

import asyncio

import discord

from bot.client import Stemify
from bot.commands import text
from bot.messages.messenger import retry_on_disconnect

DELETION_WAIT_S = 10.0  # for the messages of a deleted job


async def show_deletion(
    interaction: discord.Interaction[Stemify], deletion: asyncio.Task[list[str]], what: str = text.DELETED
) -> None:
    """Answer that something was deleted, with links to the messages that the bot cannot delete."""
    await asyncio.wait({deletion}, timeout=DELETION_WAIT_S)
    left = deletion.result() if deletion.done() and not deletion.cancelled() and not deletion.exception() else []
    answer = text.deletion(what, left)
    await retry_on_disconnect(lambda: interaction.edit_original_response(content=answer, view=None))
