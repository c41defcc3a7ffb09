"""The named queries of `queries.sql`, and the scripts that create and upgrade the database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files

from engine.jobs.job import TERMINAL_STATUSES, TRANSITIONS, JobStatus

_NAME = re.compile(r"^-- name: *(\S+) *$", re.MULTILINE)


def read_script(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def parse_queries(text: str) -> dict[str, str]:
    """Return the queries of `text` by name, with {to_…} and {terminal} filled in.

    Raises `ValueError` when a name is used twice.
    """
    _, *parts = _NAME.split(text)
    names = parts[::2]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"queries named twice: {', '.join(duplicates)}")
    placeholders = {
        "{to_processing}": _list(_before(JobStatus.PROCESSING)),
        "{to_completed}": _list(_before(JobStatus.COMPLETED)),
        "{to_failed}": _list(_before(JobStatus.FAILED)),
        "{terminal}": _list(TERMINAL_STATUSES),
    }
    queries = {}
    for name, query in zip(names, parts[1::2], strict=True):
        for placeholder, value in placeholders.items():
            query = query.replace(placeholder, value)  # noqa: PLW2901
        queries[name] = query.strip()
    return queries


def _before(status: JobStatus) -> set[JobStatus]:
    return {before for before, following in TRANSITIONS.items() if status in following}


def _list(statuses: Iterable[JobStatus]) -> str:
    return "(" + ", ".join(f"'{status}'" for status in sorted(statuses)) + ")"


QUERIES: Mapping[str, str] = parse_queries(read_script("queries.sql"))
