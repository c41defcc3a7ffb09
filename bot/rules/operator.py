"""The operator's list of servers in which the bot accepts songs."""

from __future__ import annotations

from bot.rules import text
from config.settings import Discord
from engine.errors import NotAllowed


def is_allowed(settings: Discord, guild_id: int | None) -> bool:
    return not settings.allowed_guilds or guild_id in settings.allowed_guilds


def check_server(settings: Discord, guild_id: int | None) -> None:
    """Raise `NotAllowed` outside the allowed servers, which includes direct messages and user installs."""
    if is_allowed(settings, guild_id):
        return
    if guild_id is None:
        raise NotAllowed(text.ONLY_IN_ALLOWED_SERVERS)
    raise NotAllowed(text.server_not_allowed(guild_id))
