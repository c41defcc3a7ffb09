"""What users read when the rules of a server, or the operator's, forbid something."""

from __future__ import annotations

from collections.abc import Iterable

from bot.text import counted, escape, name_channels

BLOCKED = "The managers of this server have blocked you from using this bot here."
ONLY_REQUESTER_MIXES = (
    "In this server only the person who asked for the stems can post mixes of them. `/stemify` makes your own."
)
ONLY_IN_ALLOWED_SERVERS = (
    "This bot only accepts songs in servers that its operator has allowed. Use it in one of those."
)
DELETED_ROLE = "a role that no longer exists"
_CHANGE = "Server managers can change that with `/settings`."


def needs_role(names: Iterable[str]) -> str:
    named = ", ".join(f"**{escape(name, 60)}**" for name in names)
    return f"In this server you need one of these roles to split songs: {named}. {_CHANGE}"


def needs_channel(channels: Iterable[int]) -> str:
    return f"In this server, songs can only be split in {name_channels(channels)}. {_CHANGE}"


def needs_to_control(role: str | None) -> str:
    others = "" if role is None else f" and members with the role **{escape(role, 60)}**"
    return f"In this server only the person who asked for the song{others} can use these buttons."


def over_limit(jobs_per_hour: int) -> str:
    if not jobs_per_hour:
        return f"You may not split songs in this server. {_CHANGE}"
    return f"This server allows you {counted(jobs_per_hour, one='{} song', other='{} songs')} an hour. {_CHANGE}"


def server_not_allowed(guild_id: int) -> str:
    return f"This bot may not be used in this server. Ask its operator to allow the server {guild_id}."
