"""The operator's list of servers in which the bot accepts songs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import NotAllowed

if TYPE_CHECKING:
    from bot.app import Stemify


def is_allowed(bot: Stemify, guild_id: int | None) -> bool:
    allowed = bot.settings.discord.allowed_guilds
    return not allowed or guild_id in allowed


def check_server(bot: Stemify, guild_id: int | None) -> None:
    """Raises `NotAllowed` outside the allowed servers, also where the bot is installed by a user."""
    if is_allowed(bot, guild_id):
        return
    if guild_id is None:
        raise NotAllowed(
            "This bot only accepts songs in servers that its operator has allowed. Use it in one of those."
        )
    raise NotAllowed(f"This bot may not be used in this server. Ask its operator to allow the server {guild_id}.")
