"""Pause requests after YouTube refused this server, because more of them make it worse; then try one."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, auto

from engine.sources.errors import YoutubePaused

TRIAL_RETRY_S = 60.0  # when to retry a request made during the trial


class Outcome(Enum):
    """The effect of one request on the breaker."""

    ANSWERED = auto()  # YouTube processed the request, even if the video is private
    REFUSED = auto()  # a captcha, or too many requests
    UNKNOWN = auto()  # no network, cancelled


class Breaker:
    """A circuit breaker: closed until a refusal, open for `pause_s`, then half open.

    Half open, it admits one request at a time until one is answered (closed) or refused (open again). State is in
    memory only; `monotonic` is the clock in seconds.
    """

    def __init__(self, pause_s: float, monotonic: Callable[[], float]) -> None:
        self._pause_s = pause_s
        self._monotonic = monotonic
        self._open_until_s: float | None = None
        self._trial_under_way = False

    @property
    def paused_for_s(self) -> float:
        """Seconds until a request may be made; 0 if one may be made now."""
        return max(0.0, self._open_until_s - self._monotonic()) if self._open_until_s is not None else 0.0

    def admit(self) -> bool:
        """Admit one request; return True if it is the trial (pass this to `leave`). Raises `YoutubePaused`."""
        if self._open_until_s is None:
            return False
        left_s = self.paused_for_s
        if left_s == 0 and not self._trial_under_way:
            self._trial_under_way = True
            return True
        raise _paused(left_s or TRIAL_RETRY_S)

    def check(self) -> None:
        """Raise `YoutubePaused` while the breaker is open; admits nothing."""
        if self.paused_for_s > 0:
            raise _paused(self.paused_for_s)

    def leave(self, outcome: Outcome, *, trial: bool) -> None:
        """Record the outcome of an admitted request."""
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
        f"YouTube is refusing requests from this server. Try again {when}, or attach the file instead.",
        retry_after_s=left_s,
    )
