"""Waits across which the machine stood still: a paused virtual machine or container, a host without a core to spare.
Whoever was to answer meanwhile could not."""

from __future__ import annotations

_JITTER_S = 2.0


def standstill_s(passed_s: float, meant_s: float) -> float:
    """What a wait does not count for that was to end after `meant_s` and took `passed_s`: all of it, or nothing."""
    return passed_s if passed_s > meant_s + _JITTER_S else 0.0
