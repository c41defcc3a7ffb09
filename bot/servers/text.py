"""What users read about `/settings`, in Discord's list of commands and in the answers."""

from __future__ import annotations

from collections.abc import Iterable

from bot.database.servers import ServerSettings
from bot.text import counted, escape, name_channels

DESCRIPTION = "Decide how this server uses the bot"
OPERATORS = "operator's"
"""The choice that clears a default."""

SHOW_DESCRIPTION = "Show the settings of this server"
DEFAULTS_DESCRIPTION = "Choose model, quality and format of songs for which nothing is chosen"
MODEL = f"The separation model, or {OPERATORS}: the default of the bot"
QUALITY = f"Or {OPERATORS}: the default of the bot"
OUTPUT_FORMAT = f"The file format, or {OPERATORS}: the default of the bot"
ROLE_DESCRIPTION = "Choose the roles that may split songs; if there are none, everyone may"
ROLE = "The role"
ROLE_ALLOWED = "false: take the role off the list"
CHANNEL_DESCRIPTION = "Choose the channels in which songs are split; if there are none, everywhere"
CHANNEL = "A channel, with its threads"
CHANNEL_ALLOWED = "false: take the channel off the list"
LIMIT_DESCRIPTION = "Limit the songs that a user may split in an hour in this server"
LIMIT_SONGS = "How many, 0 for none; leave it out to remove the limit"
LIMIT_ROLE = "For users with this role, instead of everyone; the highest limit of their roles applies"
RESULTS_DESCRIPTION = "Choose where stems are posted and who may post mixes of them"
RESULTS_STEMS = "In the channel, or in a thread below the card"
RESULTS_MIXES = "Who may press Karaoke, No drums and Mix…"
VOICE_DESCRIPTION = "Choose who may press the buttons of a song in a voice channel"
VOICE_BUTTONS = "Everyone in the channel, or only the person who asked for the song"
VOICE_ROLE = "With requester: members with this role may press too"
ROLE_WITH_EVERYONE = "A role has no effect while everyone may press. Choose buttons:requester with it."
BLOCK_DESCRIPTION = "Block a user in this server, or unblock one"
USER = "The user"
BLOCKED = "false: unblock"
ACTIVITY_DESCRIPTION = "Show who split songs in this server lately"
DELETE_DESCRIPTION = "Delete a job of any user of this server, with its stems and messages"
JOB = "One of the last jobs of this server"

# The activity of a server.

NO_ACTIVITY = "No songs were split in this server in the last 30 days."
ACTIVITY_COMMANDS = "`/settings delete` deletes one of these jobs, `/settings block` blocks a user."
PRIVATE_SONG = "a private song"


def activity(songs: int, users: Iterable[tuple[int, int]]) -> str:
    """Return the number of songs and, of each user given with their number, who started them."""
    people = ", ".join(f"<@{user}> {count}" for user, count in users)
    return f"**Last 30 days:** {counted(songs, one='{} song', other='{} songs')} · {people}"


def activity_line(title: str, url: str | None, user_id: int, status: str, when: str) -> str:
    name = escape(title, 50)
    linked = f"[{name}](<{url}>)" if url is not None else f"**{name}**"
    return f"- {linked} · <@{user_id}> · {status} · {when}"


# The settings.


def too_many_entries(most: int) -> str:
    return f"At most {most} of them. Remove one first."


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
        "Voice": _player(settings),
    }
    if settings.blocked:
        lines["Blocked"] = ", ".join(f"<@{user}>" for user in sorted(settings.blocked))
    return "\n".join(f"**{name}:** {value}" for name, value in lines.items())


def _player(settings: ServerSettings) -> str:
    if not settings.restricts_player:
        return "buttons for everyone in the channel"
    others = "" if settings.player_role is None else f" and {_roles([settings.player_role])}"
    return f"buttons for the requester of the song{others}"


def _roles(ids: Iterable[int]) -> str:
    return ", ".join(f"<@&{role}>" for role in sorted(ids))
