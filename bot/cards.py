"""Cards: the text of every message, built from a job without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from bot.links import with_public_links
from bot.text import (
    clean,
    escape,
    file_label,
    format_elapsed,
    format_eta,
    join_words,
    ordinal,
    sanitize,
    timestamp,
)
from bot.trust_card import stem_phrase, trust_card_lines
from engine.errors import RetryLater, StemifyError
from engine.jobs.job import InputType, Job, JobStatus, JobView, Stage
from engine.text import format_duration

Action = Literal["cancel", "retry", "keep", "delete", "refresh"]

WAITING, WORKING, DONE, FAILED, QUIET = 0x5865F2, 0xF0B232, 0x23A55A, 0xDA373C, 0x80848E
"""Colours of a card's edge."""

PICTURE = "waveform.png"
LINK_BUTTON_LENGTH = 512  # Discord's limit for the URL of a button
TEXT_LENGTH = 3500  # below Discord's limit of 4000 for a message
BAR_CELLS = 12

STAGES: dict[Stage | None, str] = {
    None: "Starting",
    Stage.FETCHING: "Fetching the audio",
    Stage.DECODING: "Reading the audio",
    Stage.SEPARATING: "Separating",
    Stage.MEASURING: "Measuring the stems",
    Stage.ENCODING: "Writing the files",
    Stage.PUBLISHING: "Storing the files",
}


@dataclass(frozen=True)
class ButtonSpec:
    """A button with an action."""

    action: Action
    label: str
    style: Literal["plain", "go", "danger"] = "plain"


@dataclass(frozen=True)
class Card:
    """The content of a message; `body` is above the picture, `below` is under it."""

    heading: str
    body: str = ""
    below: str = ""
    small: str = ""
    accent: int = QUIET
    picture: str = ""  # its alternative text; "": no picture
    links: tuple[tuple[str, str], ...] = ()
    buttons: tuple[ButtonSpec, ...] = ()


# The card of a job.

NO_WORKER = "Waiting: no worker is available. Your song is saved, and the job continues when a worker is back."


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
    buttons = [ButtonSpec("cancel", "Cancel", "danger")]
    if refreshable:
        buttons.append(ButtonSpec("refresh", "Refresh"))
    waiting = job.status is JobStatus.PENDING
    return Card(
        heading=heading(job),
        body=NO_WORKER if view.no_worker else _queue_line(view) if waiting else _progress_line(view),
        small=_options_text(job),
        accent=WAITING if waiting or view.no_worker else WORKING,
        buttons=tuple(buttons),
    )


def _queue_line(view: JobView) -> str:
    place = view.queue_place
    text = "Waiting" if place is None else "Next in the queue" if place == 1 else f"**{ordinal(place)}** in the queue"
    return text + (f" · done in {format_eta(view.eta_s)}" if view.eta_s is not None else "")


def _progress_line(view: JobView) -> str:
    job = view.job
    filled = round(job.progress / 100 * BAR_CELLS)
    line = f"{STAGES[job.stage]}\n**{job.progress} %** {'▰' * filled}{'▱' * (BAR_CELLS - filled)}"
    if view.eta_s is not None:
        line += f" · {format_eta(view.eta_s)} left"
    if view.on_cpu:
        line += "\nThe GPU is out of memory. Continuing on the CPU, which takes longer."
    if job.attempt > 1:
        line += f"\nThe last attempt failed; this is attempt {job.attempt}."
    return line


def _result_card(view: JobView, *, now: datetime) -> Card:
    job, result = view.job, view.job.result
    assert result is not None
    view, stems = with_public_links(view), list(result.stems)
    what = "vocals and instrumental" if result.stems.instrumental is not None else f"{len(stems)} stems"
    length = f" · {format_duration(job.input_duration)} long" if job.input_duration is not None else ""
    links, in_text = _links(view)
    below = " · ".join(stem_phrase(stem, info) for stem, info in stems)
    if in_text:
        below += "\n" + " · ".join(f"[{label}](<{url}>)" for label, url in in_text)
    small = trust_card_lines(result)
    small.append(_options_text(job, device=result.trust.device if result.trust is not None else None))
    expiry, buttons = "", [ButtonSpec("delete", "Delete now", "danger")]
    if job.keep:
        expiry = "Kept until you delete it."
    elif view.links_expire_at is not None:
        has_expired = view.links_expire_at <= now
        expiry = f"{'Expired' if has_expired else 'Links expire'} {timestamp(view.links_expire_at)}"
        buttons.insert(0, ButtonSpec("keep", "Keep"))
    return Card(
        heading=heading(job),
        body=f"Split into {what} in {format_elapsed(result.processing_time)}{length}",
        below="\n".join(part for part in (below, expiry) if part),
        small="\n".join(small),
        accent=DONE,
        picture=_picture_text([stem for stem, _ in stems]) if result.waveform_path is not None else "",
        links=links,
        buttons=tuple(buttons),
    )


def _picture_text(stems: Sequence[str]) -> str:
    return f"Waveforms of {join_words(stems)}"


def _links(view: JobView) -> tuple[tuple[tuple[str, str], ...], list[tuple[str, str]]]:
    """Return the links for buttons, and as many of the longer ones as fit into the text."""
    named = [("Listen", view.page_url)] if view.page_url else []
    named += [(file_label(link.name), link.url) for link in view.links]
    on_buttons = tuple((label, url) for label, url in named if len(url) <= LINK_BUTTON_LENGTH)
    in_text, free = [], TEXT_LENGTH - 1500
    for label, url in named:
        if len(url) > LINK_BUTTON_LENGTH and len(url) + 20 < free:
            in_text.append((label, url))
            free -= len(url) + 20
    return on_buttons, in_text


def _failure_card(job: Job, *, retried: bool) -> Card:
    buttons = () if retried else (ButtonSpec("retry", "Start again" if job.was_cancelled else "Retry", "go"),)
    if job.was_cancelled:
        # Cancelling deletes an uploaded file; a link can be downloaded again.
        buttons = buttons if job.input_type is InputType.YOUTUBE_URL else ()
        return Card(heading=heading(job), body="Cancelled.", small=_options_text(job), buttons=buttons)
    hint = "" if retried else "Retry does not count toward your hourly limit.\n"
    return Card(
        heading=heading(job),
        body=f"**Separation failed.** {sanitize(job.error or '')}",
        small=hint + _options_text(job),
        accent=FAILED,
        buttons=buttons,
    )


def checking_card(name: str) -> Card:
    """Return the card of a song that is being checked."""
    return Card(heading=escape(name), body="Checking the file…", accent=WAITING)


def refused_card(name: str, error: StemifyError, now: datetime) -> Card:
    return Card(heading=escape(name), body=error_text(error, now), accent=FAILED)


def deleted_card() -> Card:
    return Card(heading="Deleted", body="The song and its stems were deleted.")


def never_accepted_card() -> Card:
    return Card(
        heading="Please send that again",
        body="I restarted before I could accept your song, so no job was created. It didn't count toward your limit.",
        accent=FAILED,
    )


# Other messages.


def job_line(view: JobView, url: str | None) -> str:
    """Return a line of `/job list`."""
    job = view.job
    name = f"[{escape(job.title, 60)}](<{url}>)" if url else f"**{escape(job.title, 60)}**"
    return f"- {name} · {status_text(view)} · {job.model} · {timestamp(job.created_at)}"


def job_list(lines: Sequence[str]) -> str:
    if not lines:
        return "You have no jobs yet. Start one with `/stemify`."
    kept = list(lines)
    while len("\n".join(kept)) > 1900:
        kept.pop()
    return "\n".join(kept)


def autocomplete_label(view: JobView) -> str:
    """Return a job's label for autocomplete: plain text, at most 100 characters."""
    return clean(f"{clean(view.job.title, 60)} · {status_text(view)}", 100)


def status_text(view: JobView) -> str:
    job = view.job
    if job.status is JobStatus.PENDING:
        return f"{ordinal(view.queue_place)} in the queue" if view.queue_place else "waiting"
    if job.status is JobStatus.PROCESSING:
        return f"{STAGES[job.stage].lower()}, {job.progress} %"
    if job.status is JobStatus.COMPLETED:
        return "done"
    return "cancelled" if job.was_cancelled else "failed"


def error_text(error: StemifyError, now: datetime) -> str:
    """Return an error as a message.

    For `RetryLater`, a timestamp that Discord keeps current replaces the time of day in the error's second sentence.
    """
    if isinstance(error, RetryLater) and error.retry_after_s > 0:
        reason = sanitize(error.message).split(". ")[0].rstrip(".")
        return f"{reason}. Try again {timestamp(now + timedelta(seconds=error.retry_after_s + 1))}."
    return sanitize(error.message)


def heading(job: Job) -> str:
    by = f" — {escape(job.artist, 60)}" if job.artist else ""
    return escape(job.title, 100) + by


def _options_text(job: Job, device: str | None = None) -> str:
    options = job.options
    parts = [options.model, options.quality.value, options.output_format.value]
    parts += ["karaoke"] if options.remove_vocals else []
    parts += ["normalized"] if options.normalize else []
    parts += ["from YouTube"] if job.input_type is InputType.YOUTUBE_URL else []
    return " · ".join([*parts, *([device] if device else [])])


def without_link_buttons(card: Card) -> Card:
    """Move links into the text, for URLs that Discord refuses on buttons (such as http://localhost)."""
    free, kept = TEXT_LENGTH - len(card.body + card.below + card.small), []
    for label, url in card.links:
        if len(url) + len(label) + 10 < free:
            kept.append(f"[{label}](<{url}>)")
            free -= len(url) + len(label) + 10
    return replace(card, below="\n".join(part for part in (card.below, " · ".join(kept)) if part), links=())


def without_picture(card: Card) -> Card:
    """Return the card for `/job status`: the picture is only on the job's own message."""
    return replace(card, picture="")


def without_title_and_links(card: Card) -> Card:
    """Return the card for places in which Discord blocks the title or the links."""
    below = "\n".join(line for line in card.below.splitlines() if "](<" not in line)
    return replace(card, heading="Your song", below=below, links=())
