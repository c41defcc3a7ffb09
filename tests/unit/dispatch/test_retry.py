"""The decision to try a failed job again."""

from __future__ import annotations

import pytest

from engine.database.errors import StoreBusy
from engine.dispatch.retry import Retry, retry_decision
from engine.errors import BrokenAudio, NodeLost, OutOfMemory, SourceUnreachable, StemifyError, WorkerDied
from engine.jobs.job import Job, JobStatus
from tests.fixtures.jobs import pending_job


def job_in(attempt: int) -> Job:
    return pending_job().model_copy(update={"status": JobStatus.PROCESSING, "attempt": attempt})


@pytest.mark.parametrize(
    ("error", "attempt", "expected"),
    [
        (SourceUnreachable(), 1, Retry(0.5, alone=False)),
        (NodeLost(), 1, Retry(0.5, alone=False)),
        (WorkerDied(), 1, Retry(0.5, alone=True)),
        (OutOfMemory(), 2, Retry(2.0, alone=True)),
    ],
)
def test_transient_error_is_retried(error: StemifyError, attempt: int, expected: Retry) -> None:
    assert retry_decision(job_in(attempt), error, max_attempts=3) == expected


def test_pause_stops_growing_after_third_attempt() -> None:
    pauses = [retry_decision(job_in(attempt), WorkerDied(), max_attempts=9) for attempt in (3, 4, 8)]
    assert pauses == [Retry(5.0, alone=True)] * 3


def test_permanent_error_ends_job() -> None:
    error = BrokenAudio()
    assert retry_decision(job_in(1), error, max_attempts=3) is error


def test_last_transient_error_names_attempts() -> None:
    ended = retry_decision(job_in(3), WorkerDied(), max_attempts=3)
    assert type(ended) is WorkerDied and ended.message.endswith("It was tried 3 times.")


def test_first_transient_error_without_retries_is_unchanged() -> None:
    error = WorkerDied()
    assert retry_decision(job_in(1), error, max_attempts=1) is error


def test_last_error_of_another_kind_becomes_attempt_error() -> None:
    ended = retry_decision(job_in(3), StoreBusy(), max_attempts=3)
    assert isinstance(ended, StemifyError) and ended.code == "attempt_failed"
