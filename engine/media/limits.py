"""What a file may be, and what reading it may cost."""

from __future__ import annotations

from dataclasses import dataclass

LEEWAY_S = 0.5
"""A track may be this much over the limit: ten minutes on the cover are often 10:00.03 in the file."""

BUSY_FACTOR = 4.0
"""A song must not be refused because its decoding had to wait for a core."""


@dataclass(frozen=True)
class MediaLimits:
    """Limits of one file, and of the child process that reads it.

    `timeout_s` is the child's CPU time (by the clock it may take `BUSY_FACTOR` times as long, on a machine that does
    other things), `memory_bytes` its address space.
    """

    max_bytes: int = 50 * 1024 * 1024
    max_duration_s: float = 600.0
    timeout_s: float = 30.0
    memory_bytes: int = 1024 * 1024 * 1024


def format_duration(seconds: float) -> str:
    """Seconds as people write them: 9:59, 1:00:02."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
