"""A clock that does not believe its own jumps: what deletes by age asks it, not the machine.

A machine that comes up in the year 2040 (a dead battery, a typing error, a broken time server) must not delete all
stems at its first sweep. So when the clock has moved by a day more or less than time has passed, or by more than two
weeks while nobody looked, the time from before the jump counts for a day. Whoever runs the machine, or its time
server, has that long to put it right; after a day without another jump the new time is believed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

log = logging.getLogger(__name__)

_SLIP = timedelta(days=1)
_ABSENCE = timedelta(days=14)
_DOUBT = timedelta(days=1)
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)  # nothing of ours is as old


def monotonic_s() -> float:
    """Seconds that cannot jump, those in which the machine slept among them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SteadyClock:
    """`path` remembers, over restarts, when it was last looked at. `now` is the machine's clock. Where
    nothing is noted yet, the first day is one of doubt."""

    def __init__(self, path: Path, now: Callable[[], datetime], passed_s: Callable[[], float] = monotonic_s) -> None:
        self._path = path
        self._now = now
        self._passed_s = passed_s
        self._looked_at: float | None = None  # by `passed_s`
        self._seen, self._believed, self._doubt_until = self._load()

    def __call__(self) -> datetime:
        """The time by which things may be judged to be old: that of the machine, or an earlier one."""
        now, at = self._now(), self._passed_s()
        if self._seen is None:
            self._doubt_until = now + _DOUBT
        elif self._has_jumped(now, at, self._seen):
            self._doubt_until = now + _DOUBT
            log.error("the clock went from %s to %s: for a day nothing more is deleted for its age", self._seen, now)
        self._seen, self._looked_at = now, at
        if self._doubt_until is None or now >= self._doubt_until:
            self._doubt_until, self._believed = None, now
        self._save()
        return min(now, self._believed or _LONG_AGO)

    def _has_jumped(self, now: datetime, at: float, seen: datetime) -> bool:
        moved = now - seen
        if self._looked_at is None:  # since another life
            return not -_SLIP <= moved <= _ABSENCE
        return abs(moved - timedelta(seconds=at - self._looked_at)) > _SLIP

    def _load(self) -> tuple[datetime | None, datetime | None, datetime | None]:
        try:
            noted = json.loads(self._path.read_text())
            times = [datetime.fromisoformat(noted[name]) if noted[name] else None for name in _NAMES]
        except (OSError, ValueError, KeyError, TypeError):
            return None, None, None
        if any(each is not None and each.tzinfo is None for each in times):
            return None, None, None
        return times[0], times[1], times[2]

    def _save(self) -> None:
        times = (self._seen, self._believed, self._doubt_until)
        noted = {name: each.isoformat() if each else None for name, each in zip(_NAMES, times, strict=True)}
        part = self._path.with_suffix(".part")
        try:
            part.write_text(json.dumps(noted))
            part.replace(self._path)
        except OSError as error:
            log.warning("what time it was could not be noted: %s", error)


_NAMES = ("seen", "believed", "doubt_until")


_JITTER_S = 2.0


def pause_overrun_s(passed_s: float, meant_s: float) -> float:
    """What a wait does not count for that was to end after `meant_s` and took `passed_s`: all of it, or nothing."""
    return passed_s if passed_s > meant_s + _JITTER_S else 0.0
