"""Cards: the text of every message, built from a job without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from bot.cards.failures import FALLBACK_MODEL, failure_text, may_try_fallback
from bot.cards.result_facts import facts_line, has_expired, link_labels, picture_text, until_text
from bot.links import with_public_links
from bot.text import (
    clean,
    escape,
    format_eta,
    ordinal,
    sanitize,
    timestamp,
)
from bot.voice_extra import is_installed
from engine.errors import RetryLater, StemifyError
from engine.jobs.job import InputType, Job, JobStatus, JobView, Stage

Action = Literal[
    "cancel",
    "retry",
    "keep",
    "delete",
    "refresh",
    "karaoke",
    "no_drums",
    "no_bass",
    "mix",
    "more",
    "details",
    "again",
    "retry_fallback",
    "voice",
    "cancel_all",
    "delete_all",
]
"""What a button does with a job; `cancel_all` and `delete_all`: with a batch."""

WAITING, WORKING, DONE, FAILED, QUIET = 0x5865F2, 0xF0B232, 0x23A55A, 0xDA373C, 0x80848E
"""Colours of a card's edge."""

PICTURE = "waveform.png"
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


MIXES: dict[Action, tuple[str, str]] = {
    "karaoke": ("Karaoke", "vocals"),
    "no_drums": ("No drums", "drums"),
    "no_bass": ("No bass", "bass"),
}
"""Label of each mix, and the stem that it leaves out."""


@dataclass(frozen=True)
class Card:
    """The content of a message: `body` above the picture, `below` and `small` under it, `until` under the buttons."""

    heading: str
    body: str = ""
    below: str = ""
    small: str = ""
    accent: int = QUIET
    picture: str = ""  # its alternative text; "": no picture
    links: tuple[tuple[str, str], ...] = ()
    mixes: tuple[ButtonSpec, ...] = ()
    buttons: tuple[ButtonSpec, ...] = ()
    until: str = ""


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
        small=options_text(job),
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
    """Return a card of few lines; `more_card` has the rest."""
    view, job = with_public_links(view), view.job
    result = job.result
    assert result is not None
    stems = [stem for stem, _ in result.stems]
    presets = MIXES if result.stems.instrumental is None else {}
    mixes = [ButtonSpec(action, label) for action, (label, stem) in presets.items() if stem in stems]
    return Card(
        heading=heading(job),
        body=facts_line(job, result),
        accent=DONE,
        picture=picture_text(stems) if result.waveform_path is not None else "",
        links=link_labels(view),
        mixes=() if has_expired(view, now) else (*mixes, ButtonSpec("mix", "Mix…")),
        buttons=(*_voice(view, now), ButtonSpec("more", "More")),
        until=until_text(view, now),
    )


def _voice(view: JobView, now: datetime) -> tuple[ButtonSpec, ...]:
    return (ButtonSpec("voice", "Play in voice"),) if is_installed() and not has_expired(view, now) else ()


def _failure_card(job: Job, *, retried: bool) -> Card:
    buttons: tuple[ButtonSpec, ...] = ()
    if not retried:
        buttons = (ButtonSpec("retry", "Start again" if job.was_cancelled else "Retry", "go"),)
    if buttons and may_try_fallback(job):
        buttons = (ButtonSpec("retry_fallback", f"Try with {FALLBACK_MODEL}", "go"), ButtonSpec("retry", "Retry"))
    if job.was_cancelled:
        # Cancelling deletes an uploaded file; a link can be downloaded again.
        buttons = buttons if job.input_type is InputType.YOUTUBE_URL else ()
        return Card(heading=heading(job), body="Cancelled.", small=options_text(job), buttons=buttons)
    hint = "" if retried else "Retry does not count toward your hourly limit.\n"
    return Card(
        heading=heading(job),
        body=f"**Separation failed.** {failure_text(job)}",
        small=hint + options_text(job),
        accent=FAILED,
        buttons=buttons,
    )


def deleted_card() -> Card:
    return Card(heading="Deleted", body="The song and its stems were deleted.")


def deletion_text(what: str, left: Sequence[str]) -> str:
    """Return the answer to a deletion; `left`: links to messages that the bot cannot delete."""
    if not left:
        return f"{what}."
    messages = "this message" if len(left) == 1 else "these messages"
    return f"{what}. I cannot delete {messages} from here; a moderator can: {' '.join(left[:10])}"


NEVER_ACCEPTED = "I restarted before I could accept your song. Please send it again; it didn't count toward your limit."


def never_accepted_card() -> Card:
    return Card(heading="Please send that again", body=NEVER_ACCEPTED, accent=FAILED)


# Other messages.


def job_line(view: JobView, url: str | None) -> str:
    """Return a line of `/job list`, at most 350 characters."""
    job = view.job
    name = f"[{escape(job.title, 60)}](<{url}>)" if url else f"**{escape(job.title, 60)}**"
    return f"- {name} · {status_text(view)} · {job.model} · {timestamp(job.created_at)}"


def job_list(lines: Sequence[str]) -> str:
    if not lines:
        return "You have no jobs yet. Start one with `/stemify`."
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


def options_text(job: Job, device: str | None = None) -> str:
    """Return what was chosen for a job, and the device that did the work."""
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
    """Return the card for `/job status`: the picture and the mixes are only on the job's own message."""
    return replace(card, picture="", mixes=())


def without_title_and_links(card: Card) -> Card:
    """Return the card for places in which Discord blocks the title or the links.

    A card without a body is that of a batch; its titles are below the heading.
    """
    return replace(card, heading="Your song" if card.body else card.heading, below="", links=())
