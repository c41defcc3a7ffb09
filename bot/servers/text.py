"""What the bot says about the settings of a server."""

from __future__ import annotations

from collections.abc import Iterable

from bot.servers.store import ServerSettings
from bot.text import escape
from engine.text import plural

BLOCKED = "The managers of this server have blocked you from using this bot here."
ONLY_REQUESTER_MIXES = (
    "In this server only the person who asked for the stems can post mixes of them. `/stemify` makes your own."
)
_CHANGE = "Server managers can change that with `/settings`."


def needs_role(names: Iterable[str]) -> str:
    named = ", ".join(f"**{escape(name, 60)}**" for name in names)
    return f"In this server you need one of these roles to split songs: {named}. {_CHANGE}"


def needs_channel(channels: Iterable[int]) -> str:
    return f"In this server, songs can only be split in {_channels(channels)}. {_CHANGE}"


def over_limit(jobs_per_hour: int) -> str:
    if not jobs_per_hour:
        return f"You may not split songs in this server. {_CHANGE}"
    return f"This server allows you {plural(jobs_per_hour, 'song')} an hour. {_CHANGE}"


def settings_text(settings: ServerSettings, defaults: str) -> str:
    """Return the settings of a server, a line each. `defaults`: model, quality and format where nothing is chosen."""
    roles = _roles(settings.roles) if settings.roles else "everyone"
    channels = _channels(settings.channels) if settings.channels else "every channel"
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


def _channels(ids: Iterable[int]) -> str:
    return ", ".join(f"<#{channel}>" for channel in sorted(ids))
