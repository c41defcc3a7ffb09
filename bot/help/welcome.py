"""Introduce the bot: the link that invites it, and the first message in a server."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import discord

from bot.client import Stemify
from bot.help.command import operator_of
from bot.help.text import welcome_text
from bot.messages.messenger import FailureKind, classify_failure, send
from bot.rules.operator import is_allowed

log = logging.getLogger(__name__)

PERMISSIONS = discord.Permissions(
    view_channel=True,
    send_messages=True,
    create_public_threads=True,
    send_messages_in_threads=True,
    attach_files=True,
    read_message_history=True,
)
"""That docs/discord.md lists."""


def invite_url(application_id: int) -> str:
    """Return the link with which server managers add the bot."""
    return discord.utils.oauth_url(application_id, permissions=PERMISSIONS, scopes=("bot", "applications.commands"))


async def welcome(bot: Stemify, guild: discord.Guild) -> None:
    """Introduce the bot in the first channel in which it may write. Discord reports each join once."""
    if not is_allowed(bot.settings.discord, guild.id):
        log.warning(
            "the bot was added to a server that discord.allowed_guilds does not list", extra={"server": guild.id}
        )
        return
    text = welcome_text(bot.settings, bot.defaults(guild.id), operator_of(bot))
    for channel in _channels(guild):
        place = bot.get_partial_messageable(channel.id, guild_id=guild.id)
        try:
            await send(place, None, lambda: {"content": text, "nonce": f"w{guild.id}"})
        except discord.HTTPException as error:
            if classify_failure(error) is not FailureKind.NO_ACCESS:
                raise
        else:
            return
    log.info("no channel for the welcome message", extra={"server": guild.id})


def _channels(guild: discord.Guild) -> Iterator[discord.TextChannel]:
    """Yield the channels in which the bot may write: first that for system messages, then the public ones."""
    system = [guild.system_channel] if guild.system_channel is not None else []
    others = [channel for channel in guild.text_channels if channel not in system]
    others.sort(key=lambda channel: not channel.permissions_for(guild.default_role).view_channel)
    for channel in [*system, *others]:
        allowed = channel.permissions_for(guild.me)
        if allowed.view_channel and allowed.send_messages:
            yield channel
