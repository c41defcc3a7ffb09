"""Between a `Job` and its row: times as microseconds since 1970 (UTC), options and result as JSON."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.database.errors import StoreDamaged
from engine.jobs.job import Job
from engine.jobs.options import StemSeparationOptions
from engine.jobs.results import JobResult

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_us(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


def utc_now() -> datetime:
    return datetime.now(UTC)


def to_row(job: Job) -> dict[str, Any]:
    row = dict(job)
    row["created_at"] = to_us(job.created_at)
    row["updated_at"] = to_us(job.updated_at)
    row["options"] = job.options.model_dump_json()
    row["result"] = job.result and job.result.model_dump_json()
    return row


def from_row(row: sqlite3.Row) -> Job:
    """Raises `StoreDamaged` for what we cannot have written."""
    try:
        return _job(row)
    except ValueError as error:
        raise StoreDamaged(detail=f"job {row['id']}: {error}") from error


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    values["created_at"] = from_us(row["created_at"])
    values["updated_at"] = from_us(row["updated_at"])
    values["keep"] = bool(row["keep"])
    values["options"] = StemSeparationOptions.model_validate_json(row["options"])
    if row["result"] is not None:
        values["result"] = JobResult.model_validate_json(row["result"])
    return Job.model_validate(values)
