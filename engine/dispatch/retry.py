"""The decision to try a failed job again."""

from __future__ import annotations

from typing import NamedTuple

from engine.errors import AttemptError, NodeLost, OutOfMemory, StemifyError, WorkerDied, with_message
from engine.jobs.job import Job

_PAUSES_S = (0.5, 2.0, 5.0)


class Retry(NamedTuple):
    """Another attempt after `pause_s`; `alone`: with no other attempt on its device."""

    pause_s: float
    alone: bool


def retry_decision(job: Job, error: StemifyError, *, max_attempts: int) -> Retry | StemifyError:
    """Return how to try the job again after `error`, or the error to end it with."""
    if error.transient and job.attempt < max_attempts:
        pause_s = _PAUSES_S[min(job.attempt, len(_PAUSES_S)) - 1]
        return Retry(pause_s, alone=isinstance(error, WorkerDied | OutOfMemory) and not isinstance(error, NodeLost))
    if error.transient and job.attempt > 1:
        kind = type(error) if isinstance(error, AttemptError) else AttemptError
        return with_message(kind, f"{error.message} It was tried {job.attempt} times.")
    return error
