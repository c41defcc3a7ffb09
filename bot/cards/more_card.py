"""The private answer of the button *More*, and the details of a result."""

from __future__ import annotations

from datetime import datetime

from bot.cards import text
from bot.cards.card import ButtonSpec
from bot.cards.job_card import heading, options_text
from bot.cards.result_facts import has_expired, until_text
from bot.cards.trust_card import stem_phrase, trust_card_lines
from bot.text import clip_lines, format_elapsed
from engine.errors import NotFound
from engine.jobs.job import Job, JobView


def more_text(view: JobView, now: datetime) -> str:
    return "\n".join([f"**{heading(view.job)}**", options_text(view.job), until_text(view, now)]).rstrip("\n")


def more_buttons(view: JobView, now: datetime, *, is_owner: bool, may_delete: bool, has_song: bool) -> list[ButtonSpec]:
    """Return what a user may do with a result; `has_song`: its song is still kept."""
    buttons = [ButtonSpec("details", text.DETAILS)]
    if is_owner:
        if has_song:
            buttons += [ButtonSpec("again", text.SEPARATE_AGAIN), ButtonSpec("compare", text.TRY_MODELS)]
        if not view.job.keep and not has_expired(view, now):
            buttons.append(ButtonSpec("keep", text.KEEP))
    if may_delete:
        buttons.append(ButtonSpec("delete", text.DELETE_NOW, "danger"))
    return buttons


def details_text(job: Job) -> str:
    """Return what was measured about a result. Raises `NotFound` without one."""
    result = job.result
    if result is None:
        raise NotFound
    lines = [f"**{heading(job)}**", text.separated_in(format_elapsed(result.processing_time))]
    if result.comparison is None:
        lines.append(" · ".join(stem_phrase(stem, info) for stem, info in result.stems))
    lines += trust_card_lines(result)
    lines.append(options_text(job, device=result.trust.device if result.trust is not None else None))
    return clip_lines(lines)
