"""Fit files into messages."""

from __future__ import annotations

from collections.abc import Sequence

from discord.utils import DEFAULT_FILE_SIZE_LIMIT_BYTES

from engine.service.service import ResultFile

REQUEST_BYTES = 25 * 1024 * 1024 - 64 * 1024  # Discord's limit for one request, minus the form around the files
MAX_FILES = 10  # of one message


def pack(files: Sequence[ResultFile]) -> list[tuple[ResultFile, ...]]:
    """Return the files of each message, at least one message."""
    messages: list[list[ResultFile]] = [[]]
    free_bytes = REQUEST_BYTES
    for file in files:
        if file.size > free_bytes or len(messages[-1]) == MAX_FILES:
            messages.append([])
            free_bytes = REQUEST_BYTES
        messages[-1].append(file)
        free_bytes -= file.size
    return [tuple(message) for message in messages]


def next_limit(limit_bytes: int) -> int:
    """Return the limit to try after Discord refused files of `limit_bytes`; 0: attach nothing."""
    return DEFAULT_FILE_SIZE_LIMIT_BYTES if limit_bytes > DEFAULT_FILE_SIZE_LIMIT_BYTES else 0
