"""What users read about `/listen`, and in offers under songs."""

from __future__ import annotations

from collections.abc import Sequence

from bot.text import counted

# `/listen`.

DESCRIPTION = "Choose what the bot does with songs that are posted in a channel"
MODE = "button: offer to split them; auto: split them at once; off: ignore them; list: show where it is on"
CHANNEL = "A text, announcement, voice or forum channel, or a thread (default: this one)"
THIS_CHANNEL = "this channel"
ONLY_IN_CHANNELS = "This command only works in a channel of a server."
WHAT_COUNTS = (
    "Songs are audio files of at least 20 seconds. For videos and voice messages, right-click the message → Apps →"
    " Stemify."
)
NO_INTENT = (
    "**But I cannot see attachments yet:** the Message Content Intent is off. Ask the bot's operator to turn it on in"
    " the Discord developer portal (Bot → Privileged Gateway Intents) and to restart the bot. Until then, use"
    " `/stemify`, or right-click a message → Apps → Stemify."
)
NOWHERE = "I ignore songs everywhere in this server. `/listen mode:button` changes that for a channel."

# Permissions, as Discord names them.

VIEW_CHANNEL = "View Channel"
SEND_MESSAGES = "Send Messages"
SEND_IN_THREADS = "Send Messages in Threads"
READ_HISTORY = "Read Message History"
ATTACH_FILES = "Attach Files"


def mode_set(mode: str, place: str) -> str:
    """Return what the bot does with songs in a channel from now on."""
    return {
        "button": f"I will reply to songs in {place} with a button that splits them into stems.",
        "auto": f"I will automatically split songs in {place} into stems.",
        "off": f"I will ignore songs in {place}.",
    }[mode]


def channel_line(channel_id: int, mode: str) -> str:
    return f"- <#{channel_id}> · {mode}"


def more_channels(count: int) -> str:
    return f"and {count} more"


def cannot_write(place: str, missing: Sequence[str]) -> str:
    return f"I cannot write in {place}. Give me these permissions there first: {', '.join(missing)}."


def missing_permissions(missing: Sequence[str]) -> str:
    return f"I'm missing these permissions here: {', '.join(missing)}."


# Offers.

ALREADY_BEING_CHECKED = "These songs are being checked already. Look for the message about them here."
SPLIT = "Split into stems:"

# Buttons.

SPLIT_ONE = "Split into stems"
MORE = "More…"
GO_TO_STEMS = "Go to the stems"


def offer(songs: int) -> str:
    return f"I can split {counted(songs, one='this song', other='these {} songs')} into stems."


def split(songs: int) -> str:
    return counted(songs, one=SPLIT_ONE, other="Split all {} into stems")


def already_made(url: str) -> str:
    return f"These stems have been made already: {url}"
