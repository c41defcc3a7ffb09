"""Protection against clock jumps and suspended machines.

A machine that starts with a wrong date (dead battery, typing error, broken time server) must not delete all stems in
its first sweep. So when the clock moves a day more or less than time has passed, or more than two weeks while the bot
was off, files are judged by the time before the jump for one day. The operator or the time server has that long to
correct the clock; after a day without another jump the new time is accepted.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

log = logging.getLogger(__name__)

_MAX_DRIFT = timedelta(days=1)
_MAX_OFF_TIME = timedelta(days=14)
_DOUBT_PERIOD = timedelta(days=1)
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)  # older than any file of ours
_MAX_OVERRUN_S = 2.0


def utc_now() -> datetime:
    return datetime.now(UTC)


def monotonic_s() -> float:
    """Return seconds of a clock that cannot jump and keeps running while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def pause_overrun_s(passed_s: float, meant_s: float) -> float:
    """Return how far to extend deadlines after a wait of `passed_s` that should have ended after `meant_s`.

    That is the whole wait if it overran by more than two seconds (the machine was suspended), otherwise 0.
    """
    return passed_s if passed_s > meant_s + _MAX_OVERRUN_S else 0.0


class SteadyClock:
    """The time by which age is judged: the machine's, or an earlier one after a jump.

    `path` keeps the last known time over restarts. Without that file, the first day counts as one after a jump.
    """

    def __init__(self, path: Path, now: Callable[[], datetime], passed_s: Callable[[], float] = monotonic_s) -> None:
        self._path = path
        self._now = now
        self._passed_s = passed_s
        self._seen_at_s: float | None = None  # by `passed_s`; None until the first call of this process
        self._seen, self._believed, self._doubt_until = self._load()

    def __call__(self) -> datetime:
        now, at_s = self._now(), self._passed_s()
        if self._seen is None:
            self._doubt_until = now + _DOUBT_PERIOD
        elif self._has_jumped(now, at_s, self._seen):
            self._doubt_until = now + _DOUBT_PERIOD
            log.error("clock jumped: age-based deletion paused for 24 h", extra={"from": self._seen, "to": now})
        self._seen, self._seen_at_s = now, at_s
        if self._doubt_until is None or now >= self._doubt_until:
            self._doubt_until, self._believed = None, now
        self._save()
        return min(now, self._believed or _LONG_AGO)

    def _has_jumped(self, now: datetime, at_s: float, seen: datetime) -> bool:
        moved = now - seen
        if self._seen_at_s is None:  # `seen` was saved by an earlier process
            return not -_MAX_DRIFT <= moved <= _MAX_OFF_TIME
        return abs(moved - timedelta(seconds=at_s - self._seen_at_s)) > _MAX_DRIFT

    def _load(self) -> tuple[datetime | None, datetime | None, datetime | None]:
        try:
            saved = json.loads(self._path.read_text())
            times = [datetime.fromisoformat(saved[name]) if saved[name] else None for name in _NAMES]
        except (OSError, ValueError, KeyError, TypeError):
            return None, None, None
        if any(each is not None and each.tzinfo is None for each in times):
            return None, None, None
        return times[0], times[1], times[2]

    def _save(self) -> None:
        times = (self._seen, self._believed, self._doubt_until)
        state = {name: each.isoformat() if each else None for name, each in zip(_NAMES, times, strict=True)}
        part = self._path.with_suffix(".part")
        try:
            part.write_text(json.dumps(state))
            part.replace(self._path)
        except OSError as error:
            log.warning("could not save clock state", extra={"reason": error})


_NAMES = ("seen", "believed", "doubt_until")
