"""Apply the settings of a server, and the operator's list of servers, to what a user asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import discord

from bot.database.database import JobMessage
from bot.database.servers import ServerSettings, ServerStore
from bot.rules import text
from bot.rules.operator import check_server
from config.settings import Discord
from engine.errors import NotAllowed, QuotaExceeded


class ServerRules:
    def __init__(self, client: discord.Client, operator: Discord, servers: ServerStore) -> None:
        self._client = client
        self._operator = operator
        self._servers = servers

    def check_may_start(self, guild_id: int | None, channel: Any, user: discord.abc.User) -> int | None:
        """Return how many jobs an hour the server allows the user, or None without a limit. Raises `NotAllowed`."""
        check_server(self._operator, guild_id)
        settings, roles = self._servers.of(guild_id), _roles_of(user)
        if user.id in settings.blocked:
            raise NotAllowed(text.BLOCKED)
        if settings.roles and not settings.roles & roles:
            raise NotAllowed(text.needs_role(_names(self._client.get_guild(guild_id or 0), settings.roles)))
        if settings.channels and not settings.channels & _ids_of(channel):
            raise NotAllowed(text.needs_channel(settings.channels))
        return _jobs_per_hour(settings, roles)

    def check_may_start_here(self, interaction: discord.Interaction[Any]) -> int | None:
        """Check the user of an interaction as `check_may_start` does."""
        return self.check_may_start(interaction.guild_id, interaction.channel, interaction.user)

    def may_start_in(self, guild_id: int | None, channel: Any) -> bool:
        """Whether songs may be separated in a channel."""
        channels = self._servers.of(guild_id).channels
        return not channels or bool(channels & _ids_of(channel))

    def check_may_mix(self, interaction: discord.Interaction[Any], owner: str) -> None:
        """Raise `NotAllowed` unless the user may have mixes of a job of `owner`."""
        check_server(self._operator, interaction.guild_id)
        settings, user = self._servers.of(interaction.guild_id), interaction.user
        if user.id in settings.blocked:
            raise NotAllowed(text.BLOCKED)
        if settings.only_requester_mixes and owner != f"discord:{user.id}":
            raise NotAllowed(text.ONLY_REQUESTER_MIXES)

    def check_may_press(self, interaction: discord.Interaction[Any], owner: str) -> None:
        """Raise `NotAllowed` unless the user may press buttons of a player, with a song that `owner` asked for."""
        check_server(self._operator, interaction.guild_id)
        settings, user = self._servers.of(interaction.guild_id), interaction.user
        if user.id in settings.blocked:
            raise NotAllowed(text.BLOCKED)
        if not settings.restricts_player or owner == f"discord:{user.id}" or settings.player_role in _roles_of(user):
            return
        role = settings.player_role
        guild = self._client.get_guild(interaction.guild_id or 0)
        raise NotAllowed(text.needs_to_control(None if role is None else _names(guild, [role])[0]))

    async def record_job(self, job_message: JobMessage) -> None:
        """Record a job that starts in a server. Raises `QuotaExceeded` over the server's limit."""
        guild_id, limit = job_message.guild_id, job_message.jobs_per_hour
        if guild_id is None:
            return
        if not await self._servers.add_job(job_message.job_id, guild_id, job_message.user_id, limit=limit):
            assert limit is not None
            if not limit:
                raise NotAllowed(text.over_limit(limit))
            wait_s = await self._servers.next_free_s(guild_id, job_message.user_id, limit)
            raise QuotaExceeded(text.over_limit(limit), retry_after_s=wait_s)


def _jobs_per_hour(settings: ServerSettings, roles: Iterable[int]) -> int | None:
    """Return the highest limit of the user's roles, or that of the server."""
    of_roles = [settings.role_jobs_per_hour[role] for role in roles if role in settings.role_jobs_per_hour]
    return max(of_roles) if of_roles else settings.jobs_per_hour


def _names(guild: discord.Guild | None, roles: Iterable[int]) -> list[str]:
    found = [guild.get_role(role) for role in sorted(roles)] if guild is not None else []
    return [role.name for role in found if role is not None] or [text.DELETED_ROLE]


def _roles_of(user: discord.abc.User) -> frozenset[int]:
    return frozenset(role.id for role in user.roles) if isinstance(user, discord.Member) else frozenset()


def _ids_of(channel: Any) -> frozenset[int]:
    """Return the ids of a channel and, of a thread, of its channel."""
    return frozenset(each for each in (getattr(channel, "id", None), getattr(channel, "parent_id", None)) if each)
