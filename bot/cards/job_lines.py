"""Jobs in one line each, and as choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from bot.cards import text
from bot.cards.job_card import model_text
from bot.text import clean, escape, timestamp
from engine.jobs.job import JobStatus, JobView


def job_line(view: JobView, url: str | None) -> str:
    """Return a line of `/job list`, at most 350 characters."""
    job = view.job
    name = f"[{escape(job.title, 60)}](<{url}>)" if url else f"**{escape(job.title, 60)}**"
    return f"- {name} · {status_text(view)} · {model_text(job)} · {timestamp(job.created_at)}"


def job_list(lines: Sequence[str]) -> str:
    if not lines:
        return text.NO_JOBS
    return "\n".join(lines)


def autocomplete_label(view: JobView) -> str:
    """Return a job's label for autocomplete: plain text, at most 100 characters."""
    return clean(f"{clean(view.job.title, 60)} · {status_text(view)}", 100)


def job_labels(views: Iterable[JobView]) -> list[tuple[str, str]]:
    """Return label and id of each job; jobs with the same label are numbered, because Discord refuses equal labels."""
    labels, counts = [], Counter[str]()
    for view in views:
        label = autocomplete_label(view)
        counts[label] += 1
        labels.append((label if counts[label] == 1 else f"{clean(label, 94)} ({counts[label]})", view.job.id))
    return labels


def status_text(view: JobView) -> str:
    job = view.job
    if job.status is JobStatus.PENDING:
        return text.place_status(view.queue_place) if view.queue_place else text.WAITING
    if job.status is JobStatus.PROCESSING:
        return text.stage_status(job.stage, job.progress)
    if job.status is JobStatus.COMPLETED:
        return text.DONE
    return text.CANCELLED if job.was_cancelled else text.FAILED
