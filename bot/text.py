"""Names, numbers and times as Discord shows them, and texts that several folders need."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Literal

MESSAGE_LENGTH = 1900  # below Discord's limit of 2000

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\uffff]+")
_MARKS = re.compile(r"([\\*_~|`<>\[\]()#@:/])")  # with a bare "/", Discord shows "discord.gg/…" as an invite
_INVITE = re.compile(r"(\.gg|/invite)/", re.IGNORECASE)


def clean(text: str, length: int = 100) -> str:
    """Return one line without control and direction characters, cut to `length`."""
    text = " ".join(_UNSEEN.sub(" ", text).split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def escape(text: str, length: int = 100) -> str:
    """Return an untrusted name without active markdown, links or mentions."""
    return _MARKS.sub(r"\\\1", clean(text, length)) or "audio"


def sanitize(text: str) -> str:
    """Return an error message, which may quote an untrusted name, on one line without mentions and invites."""
    return _INVITE.sub("\\1\u200b/", clean(text, 1500)).replace("@", "@\u200b")


def counted(number: int, *, one: str, other: str) -> str:
    """Return the form of a phrase for a number, which replaces `{}`."""
    return (one if number == 1 else other).replace("{}", str(number))


def ordinal(place: int) -> str:
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def format_eta(seconds: float) -> str:
    """Return a rounded time, so that messages are not edited too often."""
    if seconds < 8:
        return "a few seconds"
    if seconds < 55:
        return f"about {round(seconds / 10) * 10 or 10} s"
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} min" if minutes < 90 else f"about {round(minutes / 60)} h"


def format_elapsed(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def size(count_bytes: int) -> str:
    if count_bytes < 1024 * 1024:
        return f"{max(1, round(count_bytes / 1024))} KB"
    return f"{count_bytes / 1024 / 1024:.1f} MB".replace(".0 MB", " MB")


def timestamp(at: datetime, style: Literal["R", "D"] = "R") -> str:
    """Return a timestamp in the reader's time zone: relative and kept current by Discord, or a date (D)."""
    return f"<t:{int(at.timestamp())}:{style}>"


def clip_lines(lines: Iterable[str]) -> str:
    """Join as many lines as fit into a message."""
    text = ""
    for line in lines:
        if len(text) + len(line) > MESSAGE_LENGTH:
            break
        text += f"{line}\n"
    return text.rstrip("\n")


def join_words(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def name_channels(ids: Iterable[int]) -> str:
    """Return channels as Discord shows them."""
    return ", ".join(f"<#{channel}>" for channel in sorted(ids))


def file_label(name: str) -> str:
    """Return the label of a file of a result: "Vocals", "Stem file", "All as zip"."""
    return {"zip": "All as zip", "stem": "Stem file"}.get(name, name.capitalize())


def unusable_model(model: str, reason: str | None, other: str | None) -> str:
    """Return that a model cannot be used, and which other one is used instead, if any."""
    instead = f"Songs are split with {other}." if other else "No other model with its stems can be used."
    return f"{model} cannot be used here ({reason or 'not loaded'}). {instead}"
