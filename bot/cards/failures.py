"""What users read about failed jobs."""

from __future__ import annotations

from bot.cards import text
from bot.text import sanitize
from engine.jobs.job import Job

FALLBACK_MODEL = "mini"  # it needs no download
_MODEL_FAILED = ("model_unavailable", "model_corrupt")


def failure_text(job: Job) -> str:
    """Return the job's error; advice for the operator about a model is in the log only."""
    if job.error_code in _MODEL_FAILED and job.options.comparison is None:
        return text.model_unavailable(job.model)
    return sanitize(job.error or "")


def may_try_fallback(job: Job) -> bool:
    """Return whether another model would do what this job's could not."""
    is_comparison = job.options.comparison is not None
    return job.error_code in _MODEL_FAILED and job.model != FALLBACK_MODEL and not is_comparison
