"""Limits on pending and running jobs."""

from __future__ import annotations

from dataclasses import dataclass

from engine.database.database import Fetch
from engine.database.sql import QUERIES
from engine.errors import QueueFull
from engine.jobs.job import JobStatus
from engine.text import plural

_RETRY_AFTER_S = (10.0, 600.0)  # minimum, maximum


@dataclass(frozen=True)
class QueueLimits:
    """The most pending and running jobs of an owner, of a scope and in total."""

    per_owner: int
    per_scope: int
    total: int


async def retry_statuses(fetch: Fetch, owner: str, root_id: str) -> list[JobStatus]:
    """Return the statuses of the owner's retries of a job that have not failed."""
    return [
        JobStatus(row["status"]) for row in await fetch(QUERIES["retry_statuses"], {"owner": owner, "root": root_id})
    ]


async def check_queue_limits(fetch: Fetch, owner: str, scope: str | None, limits: QueueLimits) -> None:
    """Raise `QueueFull` if one more job of `owner` in `scope` would exceed `limits`."""
    params = {"owner": owner, "scope": scope}
    (active,) = await fetch(QUERIES["active_counts"], params)
    counted: dict[str, str | None]
    if active["of_owner"] >= limits.per_owner:
        text, counted = f"You already have {active['of_owner']} jobs in the queue.", {**params, "scope": None}
    elif active["of_scope"] >= limits.per_scope:
        text = f"There are already {active['of_scope']} jobs in the queue from here."
        counted = {**params, "owner": None}
    elif active["in_all"] >= limits.total:
        text, counted = f"The queue is full, with {active['in_all']} jobs.", {"owner": None, "scope": None}
    else:
        return
    (shortest,) = await fetch(QUERIES["shortest_active"], counted)
    low, high = _RETRY_AFTER_S
    wait_s = min(high, max(low, float(shortest["seconds"] or 0)))
    minutes = max(1, round(wait_s / 60))
    raise QueueFull(
        f"{text} Wait until one of them is done and try again in about {plural(minutes, 'minute')}.",
        retry_after_s=wait_s,
    )
