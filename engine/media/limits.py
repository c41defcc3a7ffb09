"""Limits on a file and on the cost of reading it."""

from __future__ import annotations

from dataclasses import dataclass

LEEWAY_S = 0.5
"""Tolerance over the duration limit: a ten-minute track is often 10:00.03 in the file."""

BUSY_FACTOR = 4.0
"""Wall-clock time allowed per second of CPU time, because decoding may wait for a core."""


@dataclass(frozen=True)
class MediaLimits:
    """Limits of one file, and of the child process that reads it.

    `timeout_s` is the child's CPU time (its wall-clock deadline is `BUSY_FACTOR` times as long), `memory_bytes` its
    address space.
    """

    max_bytes: int = 50 * 1024 * 1024
    max_duration_s: float = 600.0
    timeout_s: float = 30.0
    memory_bytes: int = 1024 * 1024 * 1024
