"""What the bot says about the settings of a server."""

from __future__ import annotations

from collections.abc import Iterable

from bot.database.servers import ServerSettings
from bot.text import name_channels


def settings_text(settings: ServerSettings, defaults: str) -> str:
    """Return the settings of a server, a line each. `defaults`: model, quality and format where nothing is chosen."""
    roles = _roles(settings.roles) if settings.roles else "everyone"
    channels = name_channels(settings.channels) if settings.channels else "every channel"
    everyone = "no limit of this server" if settings.jobs_per_hour is None else f"{settings.jobs_per_hour} for everyone"
    limits = [everyone, *(f"{limit} for <@&{role}>" for role, limit in sorted(settings.role_jobs_per_hour.items()))]
    lines = {
        "Default": defaults,
        "Who": roles,
        "Where": channels,
        "Songs an hour": ", ".join(limits),
        "Stems": "in a thread below the card" if settings.uses_threads else "in the channel",
        "Mixes": "by the requester only" if settings.only_requester_mixes else "by everyone in the channel",
    }
    if settings.blocked:
        lines["Blocked"] = ", ".join(f"<@{user}>" for user in sorted(settings.blocked))
    return "\n".join(f"**{name}:** {value}" for name, value in lines.items())


def _roles(ids: Iterable[int]) -> str:
    return ", ".join(f"<@&{role}>" for role in sorted(ids))
