"""When YouTube refuses this server, every further request makes it worse: a pause, then one trial."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, auto

from engine.sources.errors import (
    YoutubePaused,
)

TRIAL_RETRY_S = 60.0  # what those are told who come while the one trial is under way


class Outcome(Enum):
    ANSWERED = auto()  # YouTube dealt with the request, be it by saying that a video is private
    REFUSED = auto()  # it asked for proof of no bot, or said that there were too many requests
    UNKNOWN = auto()  # nobody knows: no network, cancelled


class Breaker:
    """Closed: all pass. A refusal opens it for `pause_s`: nobody passes. Then half open: one passes at a time, until
    one is answered (closed) or refused (open again). In memory only; `monotonic` is the clock, in seconds."""

    def __init__(self, pause_s: float, monotonic: Callable[[], float]) -> None:
        self._pause_s = pause_s
        self._monotonic = monotonic
        self._open_until_s: float | None = None
        self._trial_under_way = False

    @property
    def paused_for_s(self) -> float:
        """Seconds until somebody may pass again; 0 when that is now."""
        return max(0.0, self._open_until_s - self._monotonic()) if self._open_until_s is not None else 0.0

    def admit(self) -> bool:
        """Let one pass; whether it is the trial (hand this back to `leave`). Raises `YoutubePaused`."""
        if self._open_until_s is None:
            return False
        left_s = self.paused_for_s
        if left_s == 0 and not self._trial_under_way:
            self._trial_under_way = True
            return True
        raise _paused(left_s or TRIAL_RETRY_S)

    def check(self) -> None:
        """Raises `YoutubePaused` while nobody would pass; lets nobody pass."""
        if self.paused_for_s > 0:
            raise _paused(self.paused_for_s)

    def leave(self, outcome: Outcome, *, trial: bool) -> None:
        """Say how it went for one that was admitted."""
        if trial:
            self._trial_under_way = False
        if outcome is Outcome.REFUSED:
            self._open_until_s = self._monotonic() + self._pause_s
        elif outcome is Outcome.ANSWERED and trial:
            self._open_until_s = None


def _paused(left_s: float) -> YoutubePaused:
    minutes = math.ceil(left_s / 60)
    when = "in about a minute" if minutes == 1 else f"in about {minutes} minutes"
    return YoutubePaused(
        f"YouTube is refusing this server just now. Try again {when}, or attach the file instead.",
        retry_after_s=left_s,
    )
