"""What users read about the commands, in Discord's list of them and in the answers."""

from __future__ import annotations

from collections.abc import Sequence

from bot.text import counted


def deletion(what: str, left: Sequence[str]) -> str:
    """Return the answer to a deletion; `left`: links to messages that the bot cannot delete."""
    if not left:
        return f"{what}."
    messages = counted(len(left), one="this message", other="these messages")
    return f"{what}. I cannot delete {messages} from here; a moderator can: {' '.join(left[:10])}"
