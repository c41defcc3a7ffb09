"""What users read when a command, a button or a form fails, and the name of threads."""

from __future__ import annotations

from datetime import datetime, timedelta

from bot.text import sanitize, timestamp
from engine.errors import RetryLater, StemifyError

NEEDS_MANAGE_SERVER = "You need the Manage Server permission for that."
THREAD_NAME = "Stems"  # without the title, because a thread remains when its job is deleted
ONLY_IN_SERVERS = "This command only works in a server."
COMMAND_CHANGED = "This command has just changed. Restart Discord (Ctrl+R) and try again in a minute."
BAD_OPTION = "One of the options is invalid. Pick a value from the list."


def error_text(error: StemifyError, now: datetime) -> str:
    """Return an error as a message.

    For `RetryLater`, a timestamp that Discord keeps current replaces the time of day in the error's second sentence.
    """
    if isinstance(error, RetryLater) and error.retry_after_s > 0:
        reason = sanitize(error.message).split(". ")[0].rstrip(".")
        return f"{reason}. Try again {timestamp(now + timedelta(seconds=error.retry_after_s + 1))}."
    return sanitize(error.message)
