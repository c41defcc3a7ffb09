"""Acknowledge interactions and answer errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any

import discord
from discord import app_commands

from bot.messages import text
from bot.messages.messenger import retry_on_disconnect
from engine.errors import InternalError, NotAllowed, StemifyError

log = logging.getLogger(__name__)

ALREADY_ACKNOWLEDGED, UNKNOWN_INTERACTION = 40060, 10062


class InteractionExpired(Exception):
    """Raised when Discord no longer accepts an answer to an interaction."""


class InteractionFailed(app_commands.AppCommandError):
    """Raised for an error outside a command's code, as when discord.py cannot parse the interaction."""

    def __init__(self, original: Exception) -> None:
        super().__init__(str(original))
        self.original = original


async def acknowledge(interaction: discord.Interaction[Any], *, thinking: bool = False, ephemeral: bool = False) -> int:
    """Defer the answer and return the id of its message; without `thinking`, that of the pressed button's message.

    Discord allows 3 s, so every command calls this first. Raises `InteractionExpired` after that.
    """
    try:
        response = await retry_on_disconnect(lambda: interaction.response.defer(thinking=thinking, ephemeral=ephemeral))
    except discord.HTTPException as error:
        if error.code == UNKNOWN_INTERACTION:
            raise InteractionExpired from error
        if error.code != ALREADY_ACKNOWLEDGED:  # acknowledged by an attempt whose response was lost
            raise
        response = None
    interaction.extras["thinking"] = thinking or interaction.type is discord.InteractionType.application_command
    interaction.extras["ephemeral"] = ephemeral
    if response is not None and response.message_id is not None:
        return response.message_id
    return (await retry_on_disconnect(interaction.original_response)).id


def mark_answered(interaction: discord.Interaction[Any]) -> None:
    """Record that the deferred answer has content, so that an error does not replace it."""
    interaction.extras["thinking"] = False


async def run_guarded(interaction: discord.Interaction[Any], work: Awaitable[None]) -> None:
    """Run a button's action and answer its errors."""
    try:
        await work
    except Exception as error:
        await refuse(interaction, error)


async def refuse(interaction: discord.Interaction[Any], error: BaseException) -> None:
    """Answer with the error's message; log unexpected errors."""
    if isinstance(error, (app_commands.CommandInvokeError, InteractionFailed)):
        error = error.original
    if interaction.type is discord.InteractionType.autocomplete:  # cannot be answered with a message
        log.error("autocomplete %s failed", interaction.id, exc_info=error)
        return
    if isinstance(error, InteractionExpired):
        log.warning("interaction %s could not be acknowledged in time", interaction.id)
        return
    answer = text.error_text(_to_error(interaction, error), datetime.now(UTC))
    try:
        await _send_error(interaction, answer)
    except Exception as failure:
        log.warning("could not answer interaction %s: %s", interaction.id, failure)


def _to_error(interaction: discord.Interaction[Any], error: BaseException) -> StemifyError:
    if isinstance(error, StemifyError):
        if isinstance(error, InternalError) or error.detail:
            log.info("interaction %s: %s (%s)", interaction.id, error.message, error.detail)
        return error
    if isinstance(error, app_commands.MissingPermissions):
        return NotAllowed(text.NEEDS_MANAGE_SERVER)
    if isinstance(error, app_commands.NoPrivateMessage):
        return NotAllowed(text.ONLY_IN_SERVERS)
    if isinstance(error, (app_commands.CommandNotFound, app_commands.CommandSignatureMismatch)):
        return StemifyError(text.COMMAND_CHANGED)
    if isinstance(error, app_commands.TransformerError):
        return StemifyError(text.BAD_OPTION)
    log.error("interaction %s failed", interaction.id, exc_info=error)
    return InternalError()


async def _send_error(interaction: discord.Interaction[Any], answer: str) -> None:
    thinking = interaction.extras.get("thinking")
    if thinking is None and not interaction.response.is_done():
        await retry_on_disconnect(lambda: interaction.response.send_message(answer, ephemeral=True))
        return
    if thinking and not interaction.extras["ephemeral"]:
        thinking = not await _delete_original(interaction)
    if thinking:
        try:
            await retry_on_disconnect(lambda: interaction.edit_original_response(content=answer))
        except discord.HTTPException as error:
            if error.status != 400:  # the message is a card, which cannot become plain text
                raise
        else:
            return
    await retry_on_disconnect(lambda: interaction.followup.send(answer, ephemeral=True), repeatable=False)


async def _delete_original(interaction: discord.Interaction[Any]) -> bool:
    """Delete the deferred public answer, because only a new message can be private; return whether it is gone."""
    try:
        await retry_on_disconnect(interaction.delete_original_response)
    except discord.HTTPException as error:
        return error.status == 404
    return True
