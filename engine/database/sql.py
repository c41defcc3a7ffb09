"""Loads `queries.sql`: each `-- name: x` is a field of `Queries`, and a name too few, too many or twice is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib.resources import files

from engine.jobs.job import TERMINAL_STATUSES, TRANSITIONS, JobStatus

_NAME = re.compile(r"^-- name: *(\S+) *$", re.MULTILINE)


@dataclass(frozen=True)
class Queries:
    add_job: str
    active_counts: str
    shortest_active: str
    job: str
    jobs_of: str
    active_jobs_of: str
    ids_of: str
    processing_jobs: str
    claim: str
    next_attempt: str
    save_progress: str
    set_input: str
    complete: str
    fail: str
    counts: str
    queue_place: str
    queue: str
    keep: str
    delete_job: str
    note_deletion: str
    deletions: str
    forget_deletion: str
    forget_idle_owners: str
    forget_owner: str
    over_since: str
    briefs: str
    remove_archived: str
    speed: str
    learn_speed: str
    clear_transitions: str
    add_transition: str


def schema() -> str:
    return files(__package__).joinpath("schema.sql").read_text(encoding="utf-8")


def version_2() -> str:
    return files(__package__).joinpath("version_2.sql").read_text(encoding="utf-8")


def load_queries(text: str | None = None) -> Queries:
    """The queries of `text` (default: queries.sql). Raises `ValueError` when its names are not exactly those above."""
    if text is None:
        text = files(__package__).joinpath("queries.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    names = parts[::2]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"queries named twice: {', '.join(doubled)}")
    known = {field.name for field in fields(Queries)}
    if set(names) != known:
        raise ValueError(
            f"queries missing: {sorted(known - set(names))}, queries nobody knows: {sorted(set(names) - known)}"
        )
    blanks = {
        "{to_processing}": _list(_before(JobStatus.PROCESSING)),
        "{to_completed}": _list(_before(JobStatus.COMPLETED)),
        "{to_failed}": _list(_before(JobStatus.FAILED)),
        "{terminal}": _list(TERMINAL_STATUSES),
    }
    queries = {}
    for name, query in zip(names, parts[1::2], strict=True):
        for blank, value in blanks.items():
            query = query.replace(blank, value)  # noqa: PLW2901
        queries[name] = query.strip()
    return Queries(**queries)


def _before(status: JobStatus) -> set[JobStatus]:
    return {before for before, following in TRANSITIONS.items() if status in following}


def _list(statuses: Iterable[JobStatus]) -> str:
    return "(" + ", ".join(f"'{status}'" for status in sorted(statuses)) + ")"
