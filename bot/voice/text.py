"""What users read about songs in voice channels."""

from __future__ import annotations

from collections.abc import Iterable

from bot.text import escape
from engine.text import format_duration, plural

PERMISSIONS = {"view_channel": "View Channel", "connect": "Connect", "speak": "Speak"}

# Answers to `/play`.
JOIN_FIRST = "Join a voice channel first."
JOINING = "I am joining a voice channel. Try again in a few seconds."
TOO_MANY_SERVERS = "I am already playing in as many servers as I can. Try again later."

# Why a session ended.
ENDED = "This player has ended. Use `/play` to start another one."
DISCONNECTED = "I was disconnected from the voice channel."
ALONE = "Everyone has left, so I left too."
FAILED = "Something went wrong. Use `/play` to start again."
DELETED = "The song was deleted or has expired."
LAST_SONG = "That was the last song. Use `/play` to play another one."

# Notes in the control message.
CHANGING_VERSION = "Changing the key or the tempo…"
MUTED = "Paused: I am muted by the server."
PLAYER_FAILED = "The player failed repeatedly."
PLAYER_RESTARTED = "The player failed and was restarted."
IN_AUDIENCE = "I am in the audience: a moderator of the stage must invite me to speak."
ASKED_TO_SPEAK = "I have asked to speak: a moderator of the stage must invite me."

# Buttons.
EVERYTHING = "Everything"
START, BACK, PAUSE, FORWARD, STOP, NEXT = "⏮", "−10 s", "⏯", "+10 s", "Stop", "Next song"
QUIETER, LOUDER, LOWER, HIGHER, SLOWER, FASTER = "Volume −", "Volume +", "Key −", "Key +", "Tempo −", "Tempo +"
LOOP_FROM, LOOP_TO, STOP_LOOP = "Loop from here", "Loop to here", "Stop loop"
STAGE = "Stage"


def playing(url: str) -> str:
    return f"Playing: {url}"


def queued(url: str) -> str:
    return f"Added to the queue: {url}"


def playing_elsewhere(channel_id: int) -> str:
    return f"I am already playing in <#{channel_id}>."


def queue_is_full(songs: int) -> str:
    return f"The queue is full: it has {plural(songs, 'song')}."


def needs_permission(label: str, channel_id: int) -> str:
    return f"I need the permission {label} in <#{channel_id}>."


def needs_to_write(channel_id: int) -> str:
    return f"I need the permission Send Messages here or in the chat of <#{channel_id}>."


def channel_is_full(channel_id: int) -> str:
    return f"<#{channel_id}> is full."


def could_not_join(channel_id: int) -> str:
    return f"I could not join <#{channel_id}>. Try again."


def must_join(channel_id: int) -> str:
    return f"Join <#{channel_id}> to use these buttons."


def skipped(reason: str) -> str:
    return f"Skipped a song: {reason}"


def now_playing(title: str) -> str:
    return f"Now playing: **{escape(title)}**"


def stopped_by(user_id: int) -> str:
    return f"Stopped by <@{user_id}>."


def position(position_s: float, duration_s: float, *, is_paused: bool) -> str:
    sign, left_s = "⏸" if is_paused else "▶", duration_s - position_s
    return f"{sign} {format_duration(position_s)} of {format_duration(duration_s)} · {format_duration(left_s)} left"


def sound(muted: Iterable[str], *, volume: float, key: int, tempo: float) -> str:
    parts = [f"without {stem}" for stem in sorted(muted)]
    parts += [f"volume {volume:.0%}"] if volume != 1 else []
    parts += [f"key {key:+d}"] if key else []
    parts += [f"tempo {tempo:.0%}"] if tempo != 1 else []
    return " · ".join(parts)


def loop(start_s: float | None, end_s: float | None) -> str:
    if start_s is None:
        return ""
    if end_s is None:
        return f"The loop begins at {format_duration(start_s)}"
    return f"Repeating {format_duration(start_s)} to {format_duration(end_s)}"


def upcoming(titles: list[str]) -> str:
    if not titles:
        return ""
    more = f", then {len(titles) - 1} more" if len(titles) > 1 else ""
    return f"-# Next: {escape(titles[0])}{more}"
