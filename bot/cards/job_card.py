"""The card of a job, built without I/O."""

from __future__ import annotations

from datetime import datetime

from bot.cards import text
from bot.cards.card import CHOICES, DONE, FAILED, MIXES, WAITING, WORKING, ButtonSpec, Card
from bot.cards.failures import FALLBACK_MODEL, failure_text, may_try_fallback
from bot.cards.result_facts import facts_line, has_expired, link_labels, until_text
from bot.links import with_public_links
from bot.text import escape
from bot.voice_extra import is_installed
from engine.jobs.job import InputType, Job, JobStatus, JobView

BAR_CELLS = 12


def job_card(view: JobView, *, now: datetime, refreshable: bool = False, retried: bool = False) -> Card:
    """Return the current card of a job.

    `refreshable`: offer a button that renews the token with which the message is edited. `retried`: do not offer
    Retry.
    """
    job = view.job
    if job.status is JobStatus.COMPLETED:
        return _result_card(view, now=now)
    if job.status is JobStatus.FAILED:
        return _failure_card(job, retried=retried)
    buttons = [ButtonSpec("cancel", text.CANCEL, "danger")]
    if refreshable:
        buttons.append(ButtonSpec("refresh", text.REFRESH))
    waiting = job.status is JobStatus.PENDING
    body = text.queue_place(view.queue_place, view.eta_s) if waiting else _progress_text(view)
    return Card(
        heading=heading(job),
        body=text.NO_WORKER if view.no_worker else body,
        small=options_text(job),
        accent=WAITING if waiting or view.no_worker else WORKING,
        buttons=tuple(buttons),
    )


def _progress_text(view: JobView) -> str:
    job = view.job
    filled = round(job.progress / 100 * BAR_CELLS)
    bar = f"{'▰' * filled}{'▱' * (BAR_CELLS - filled)}"
    lines = [text.STAGES[job.stage], text.percent(job.progress, bar, view.eta_s)]
    lines += [text.ON_CPU] if view.on_cpu else []
    lines += [text.attempt(job.attempt)] if job.attempt > 1 else []
    return "\n".join(lines)


def _result_card(view: JobView, *, now: datetime) -> Card:
    """Return a card of few lines; `more_card` has the rest."""
    view, job = with_public_links(view), view.job
    result = job.result
    assert result is not None
    if result.comparison is not None:
        return _comparison_card(view, now=now)
    stems = [stem for stem, _ in result.stems]
    presets = MIXES if result.stems.instrumental is None else {}
    mixes = [ButtonSpec(action, label) for action, (label, stem) in presets.items() if stem in stems]
    return Card(
        heading=heading(job),
        body=facts_line(job, result),
        accent=DONE,
        picture=text.picture(stems) if result.waveform_path is not None else "",
        links=link_labels(view),
        mixes=() if has_expired(view, now) else (*mixes, ButtonSpec("mix", text.MIX)),
        buttons=(*_voice(view, now), ButtonSpec("more", text.MORE)),
        until=until_text(view, now),
    )


def _comparison_card(view: JobView, *, now: datetime) -> Card:
    """Return the card of a comparison of models: files without their names, and a button for each."""
    result = view.job.result
    assert result is not None and result.comparison is not None
    letters = [ButtonSpec(CHOICES[label], label) for label in result.comparison.models]
    return Card(
        heading=heading(view.job),
        body=text.COMPARED,
        small=options_text(view.job),
        accent=DONE,
        links=link_labels(view),
        mixes=() if has_expired(view, now) else tuple(letters),
        buttons=(ButtonSpec("more", text.MORE),),
        until=until_text(view, now),
    )


def _voice(view: JobView, now: datetime) -> tuple[ButtonSpec, ...]:
    return (ButtonSpec("voice", text.PLAY_IN_VOICE),) if is_installed() and not has_expired(view, now) else ()


def _failure_card(job: Job, *, retried: bool) -> Card:
    buttons: tuple[ButtonSpec, ...] = ()
    if not retried:
        buttons = (ButtonSpec("retry", text.START_AGAIN if job.was_cancelled else text.RETRY, "go"),)
    if buttons and may_try_fallback(job):
        buttons = (ButtonSpec("retry_fallback", text.try_with(FALLBACK_MODEL), "go"), ButtonSpec("retry", text.RETRY))
    if job.was_cancelled:
        # Cancelling deletes an uploaded file; a link can be downloaded again.
        buttons = buttons if job.input_type is InputType.YOUTUBE_URL else ()
        return Card(heading=heading(job), body=text.CANCELLED_CARD, small=options_text(job), buttons=buttons)
    hint = "" if retried else f"{text.FREE_RETRY}\n"
    return Card(
        heading=heading(job),
        body=text.failed(failure_text(job)),
        small=hint + options_text(job),
        accent=FAILED,
        buttons=buttons,
    )


def deleted_card() -> Card:
    return Card(heading=text.DELETED_HEADING, body=text.DELETED_CARD)


def never_accepted_card() -> Card:
    return Card(heading=text.NEVER_ACCEPTED_HEADING, body=text.NEVER_ACCEPTED, accent=FAILED)


def heading(job: Job) -> str:
    by = f" — {escape(job.artist, 60)}" if job.artist else ""
    return escape(job.title, 100) + by


def model_text(job: Job) -> str:
    """Return the model of a job, or how many it compares."""
    comparison = job.options.comparison
    return job.model if comparison is None else text.compared_models(len(comparison.models))


def options_text(job: Job, device: str | None = None) -> str:
    """Return what was chosen for a job, and the device that did the work."""
    options = job.options
    parts = [model_text(job), options.quality.value]
    parts += [options.output_format.value] if options.comparison is None else []
    parts += [text.OPTION_KARAOKE] if options.remove_vocals else []
    parts += [text.OPTION_NORMALIZED] if options.normalize else []
    parts += [text.FROM_YOUTUBE] if job.input_type is InputType.YOUTUBE_URL else []
    return " · ".join([*parts, *([device] if device else [])])
