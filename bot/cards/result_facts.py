"""Facts about a result as short texts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bot.text import join_words, timestamp
from engine.jobs.job import Job, JobView
from engine.jobs.results import JobResult
from engine.text import format_duration, plural


def has_expired(view: JobView, now: datetime) -> bool:
    return not view.job.keep and view.links_expire_at is not None and view.links_expire_at <= now


def until_text(view: JobView, now: datetime) -> str:
    """Return until when the stems are available and, for a repeat, when they were separated."""
    result, parts = view.job.result, []
    if result is not None and result.separated_at is not None:
        parts.append(f"Separated on {timestamp(result.separated_at, 'D')}.")
    if view.job.keep:
        parts.append("Kept until you delete it.")
    elif view.links_expire_at is not None:
        verb = "Expired" if has_expired(view, now) else "Available until"
        parts.append(f"{verb} {timestamp(view.links_expire_at, 'D')}" + ("." if parts else ""))
    return " ".join(parts)


def facts_line(job: Job, result: JobResult) -> str:
    """Return number of stems, length, key and tempo, as far as they are known."""
    stems = result.stems
    facts = ["Vocals and instrumental" if stems.instrumental is not None else plural(len(list(stems)), "stem")]
    if job.input_duration is not None:
        facts.append(format_duration(job.input_duration))
    if (music := result.music) is not None:
        facts += [music.key] if music.key is not None else []
        facts += [f"{music.tempo_bpm:.0f} BPM"] if music.tempo_bpm is not None else []
    lines = [" · ".join(facts)]
    if seems_failed(result):
        lines.append("**The separation seems to have failed.** *Details*, behind *More*, says why.")
    return "\n".join(lines)


def seems_failed(result: JobResult) -> bool:
    """Return whether the stems look as if nothing was separated."""
    return result.trust is not None and any(note.startswith("The separation failed") for note in result.trust.notes)


def picture_text(stems: Sequence[str]) -> str:
    """Return the alternative text of the picture."""
    return f"Waveforms of {join_words(stems)}"


def link_labels(view: JobView) -> tuple[tuple[str, str], ...]:
    """Return label and address of each link of a result."""
    urls = {link.name: link.url for link in view.links}
    named = {"Listen": view.page_url, "Zip": urls.get("zip"), "Stem file": urls.get("stem")}
    return tuple((label, url) for label, url in named.items() if url is not None)
