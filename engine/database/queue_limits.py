"""Caps on the jobs that wait or run."""

from __future__ import annotations

from dataclasses import dataclass

from engine.database.database import Fetch
from engine.database.sql import QUERIES
from engine.errors import QueueFull
from engine.text import plural

_RETRY_AFTER_S = (10.0, 600.0)  # at least and at most


@dataclass(frozen=True)
class Caps:
    """How many jobs may wait or run: of one owner, of one scope, of all."""

    per_owner: int
    per_scope: int
    total: int


async def check_caps(fetch: Fetch, owner: str, scope: str | None, caps: Caps) -> None:
    """Raises `QueueFull` when one more job of `owner` in `scope` would exceed the caps. `fetch` runs a query."""
    whose = {"owner": owner, "scope": scope}
    (active,) = await fetch(QUERIES["active_counts"], whose)
    circle: dict[str, str | None]
    if active["of_owner"] >= caps.per_owner:
        text, circle = f"You already have {active['of_owner']} jobs in the queue.", {**whose, "scope": None}
    elif active["of_scope"] >= caps.per_scope:
        text, circle = f"There are already {active['of_scope']} jobs in the queue from here.", {**whose, "owner": None}
    elif active["in_all"] >= caps.total:
        text, circle = f"The queue is full, with {active['in_all']} jobs.", {"owner": None, "scope": None}
    else:
        return
    (shortest,) = await fetch(QUERIES["shortest_active"], circle)
    low, high = _RETRY_AFTER_S
    wait_s = min(high, max(low, float(shortest["seconds"] or 0)))
    minutes = max(1, round(wait_s / 60))
    raise QueueFull(
        f"{text} Wait until one of them is done and try again in about {plural(minutes, 'minute')}.",
        retry_after_s=wait_s,
    )
