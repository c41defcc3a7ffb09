"""Facts about a result as short texts."""

from __future__ import annotations

from datetime import datetime

from bot.cards import text
from bot.text import file_label, timestamp
from engine.jobs.job import Job, JobView
from engine.jobs.results import JobResult
from engine.jobs.trust import SEPARATION_FAILED
from engine.text import format_duration


def has_expired(view: JobView, now: datetime) -> bool:
    return not view.job.keep and view.links_expire_at is not None and view.links_expire_at <= now


def until_text(view: JobView, now: datetime) -> str:
    """Return until when the stems are available and, for a repeat, when they were separated."""
    result, parts = view.job.result, []
    if result is not None and result.separated_at is not None:
        parts.append(text.separated_on(timestamp(result.separated_at, "D")))
    if view.job.keep:
        parts.append(text.KEPT)
    elif view.links_expire_at is not None:
        expiry = text.expiry(timestamp(view.links_expire_at, "D"), has_expired=has_expired(view, now))
        parts.append(f"{expiry}." if parts else expiry)
    return " ".join(parts)


def facts_line(job: Job, result: JobResult) -> str:
    """Return number of stems, length, key and tempo, as far as they are known."""
    stems = result.stems
    facts = [text.KARAOKE_STEMS if stems.instrumental is not None else text.stem_count(len(list(stems)))]
    if job.input_duration is not None:
        facts.append(format_duration(job.input_duration))
    if (music := result.music) is not None:
        facts += [music.key] if music.key is not None else []
        facts += [text.tempo(music.tempo_bpm)] if music.tempo_bpm is not None else []
    lines = [" · ".join(facts)]
    if seems_failed(result):
        lines.append(text.RESULT_SEEMS_FAILED)
    return "\n".join(lines)


def seems_failed(result: JobResult) -> bool:
    """Return whether the stems look as if nothing was separated."""
    return result.trust is not None and any(note.startswith(SEPARATION_FAILED) for note in result.trust.notes)


def link_labels(view: JobView) -> tuple[tuple[str, str], ...]:
    """Return label and address of each link of a result."""
    urls = {link.name: link.url for link in view.links}
    named = {text.LISTEN: view.page_url, text.ZIP: urls.get("zip"), file_label("stem"): urls.get("stem")}
    return tuple((label, url) for label, url in named.items() if url is not None)
