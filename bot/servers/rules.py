"""Apply the settings of a server, and the operator's list of servers, to what a user asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import discord

from bot.servers import text
from bot.servers.operator import check_server
from bot.servers.store import ServerSettings, ServerStore
from engine.errors import NotAllowed, QuotaExceeded

if TYPE_CHECKING:
    from bot.client import Stemify
    from bot.database import JobMessage


def check_may_start(bot: Stemify, guild_id: int | None, channel: Any, user: discord.abc.User) -> int | None:
    """Return how many jobs an hour the server allows the user, or None without a limit. Raises `NotAllowed`."""
    check_server(bot.settings.discord, guild_id)
    settings, roles = bot.database.servers.of(guild_id), _roles_of(user)
    if user.id in settings.blocked:
        raise NotAllowed(text.BLOCKED)
    if settings.roles and not settings.roles & roles:
        raise NotAllowed(text.needs_role(_names(bot.get_guild(guild_id or 0), settings.roles)))
    if settings.channels and not settings.channels & _ids_of(channel):
        raise NotAllowed(text.needs_channel(settings.channels))
    return _jobs_per_hour(settings, roles)


def may_start_in(settings: ServerSettings, channel: Any) -> bool:
    """Whether songs may be separated in a channel."""
    return not settings.channels or bool(settings.channels & _ids_of(channel))


def check_may_start_here(interaction: discord.Interaction[Stemify]) -> int | None:
    """Check the user of an interaction as `check_may_start` does."""
    return check_may_start(interaction.client, interaction.guild_id, interaction.channel, interaction.user)


def check_may_mix(interaction: discord.Interaction[Stemify], owner: str) -> None:
    """Raise `NotAllowed` unless the user may have mixes of a job of `owner`."""
    bot, user = interaction.client, interaction.user
    check_server(bot.settings.discord, interaction.guild_id)
    settings = bot.database.servers.of(interaction.guild_id)
    if user.id in settings.blocked:
        raise NotAllowed(text.BLOCKED)
    if settings.only_requester_mixes and owner != f"discord:{user.id}":
        raise NotAllowed(text.ONLY_REQUESTER_MIXES)


async def record_job(servers: ServerStore, job_message: JobMessage) -> None:
    """Record a job that starts in a server. Raises `QuotaExceeded` over the server's limit."""
    guild_id, limit = job_message.guild_id, job_message.jobs_per_hour
    if guild_id is None:
        return
    if not await servers.add_job(job_message.job_id, guild_id, job_message.user_id, limit=limit):
        assert limit is not None
        if not limit:
            raise NotAllowed(text.over_limit(limit))
        wait_s = await servers.next_free_s(guild_id, job_message.user_id, limit)
        raise QuotaExceeded(text.over_limit(limit), retry_after_s=wait_s)


def _jobs_per_hour(settings: ServerSettings, roles: Iterable[int]) -> int | None:
    """Return the highest limit of the user's roles, or that of the server."""
    of_roles = [settings.role_jobs_per_hour[role] for role in roles if role in settings.role_jobs_per_hour]
    return max(of_roles) if of_roles else settings.jobs_per_hour


def _names(guild: discord.Guild | None, roles: Iterable[int]) -> list[str]:
    found = [guild.get_role(role) for role in sorted(roles)] if guild is not None else []
    return [role.name for role in found if role is not None] or ["a role that no longer exists"]


def _roles_of(user: discord.abc.User) -> frozenset[int]:
    return frozenset(role.id for role in user.roles) if isinstance(user, discord.Member) else frozenset()


def _ids_of(channel: Any) -> frozenset[int]:
    """Return the ids of a channel and, of a thread, of its channel."""
    return frozenset(each for each in (getattr(channel, "id", None), getattr(channel, "parent_id", None)) if each)
