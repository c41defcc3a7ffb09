"""Convert jobs to rows and back: times as microseconds since 1970 (UTC), options and result as JSON."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from engine.database.errors import StoreDamaged
from engine.jobs.job import Job, JobStatus
from engine.jobs.options import StemSeparationOptions
from engine.jobs.results import JobResult

log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class JobSummary:
    """The columns of a job that the sweeper needs."""

    status: JobStatus
    attempt: int
    updated_at: datetime  # of a finished job: when it ended
    keep: bool
    error_code: str | None

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(job.status, job.attempt, job.updated_at, job.keep, job.error_code)

    @classmethod
    def of_row(cls, row: sqlite3.Row) -> Self:
        status, updated_at = JobStatus(row["status"]), from_us(row["updated_at"])
        return cls(status, row["attempt"], updated_at, bool(row["keep"]), row["error_code"])


def to_us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_us(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


def to_row(job: Job) -> dict[str, Any]:
    row = dict(job)
    row["created_at"] = to_us(job.created_at)
    row["updated_at"] = to_us(job.updated_at)
    row["options"] = job.options.model_dump_json()
    row["result"] = job.result and job.result.model_dump_json()
    return row


def from_row(row: sqlite3.Row) -> Job:
    """Return the job of a row. Raises `StoreDamaged` for an invalid row."""
    try:
        return _job(row)
    except ValueError as error:
        raise StoreDamaged(detail=f"job {row['id']}: {error}") from error


def decode_rows(rows: Sequence[Any]) -> list[Job]:
    """Return the readable jobs: a damaged row must not hide the others."""
    jobs: list[Job] = []
    for row in rows:
        try:
            jobs.append(from_row(row))
        except StoreDamaged as error:
            log.error("could not read job %s: %s", row["id"], error.detail)
    return jobs


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    values["created_at"] = from_us(row["created_at"])
    values["updated_at"] = from_us(row["updated_at"])
    values["keep"] = bool(row["keep"])
    values["options"] = StemSeparationOptions.model_validate_json(row["options"])
    if row["result"] is not None:
        values["result"] = JobResult.model_validate_json(row["result"])
    return Job.model_validate(values)
