"""What the bot says, without Discord: a job in, a card out. Pure, so that every wording can be read in a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from bot.text import (
    clean,
    escape,
    format_duration,
    format_elapsed,
    format_eta,
    join_words,
    ordinal,
    sanitize,
    size,
    timestamp,
)
from bot.trust_card import stem_phrase, trust_card_lines
from engine.errors import RetryLater, StemifyError
from engine.jobs.job import InputType, Job, JobStatus, JobView, Stage

Action = Literal["cancel", "retry", "keep", "delete", "refresh"]

WAITING, WORKING, DONE, FAILED, QUIET = 0x5865F2, 0xF0B232, 0x23A55A, 0xDA373C, 0x80848E
"""Colours of a card's edge."""

PICTURE = "waveform.png"
LINK_BUTTON_LENGTH = 512  # Discord's limit of an address on a button
TEXT_LENGTH = 3500  # of 4000 that a message may hold
BAR_CELLS = 12

STAGES: dict[Stage | None, str] = {
    None: "Starting",
    Stage.FETCHING: "Fetching the audio",
    Stage.DECODING: "Reading the audio",
    Stage.SEPARATING: "Separating",
    Stage.MEASURING: "Measuring the stems",
    Stage.ENCODING: "Writing the files",
    Stage.PUBLISHING: "Putting the files in place",
}


@dataclass(frozen=True)
class ButtonSpec:
    """A button that the bot answers."""

    action: Action
    label: str
    style: Literal["plain", "go", "danger"] = "plain"


@dataclass(frozen=True)
class Card:
    """A message: a heading, text above and below the picture, small print, links and buttons."""

    heading: str
    body: str = ""
    below: str = ""
    small: str = ""
    accent: int = QUIET
    picture: bool = False
    links: tuple[tuple[str, str], ...] = ()
    presses: tuple[ButtonSpec, ...] = ()

    def as_text(self) -> str:
        """The card as it reads, for tests and logs."""
        rows = [f"### {self.heading}", self.body, f"[{PICTURE}]" if self.picture else "", self.below]
        rows += [f"-# {line}" for line in self.small.splitlines()]
        rows += [" ".join(f"[{label}↗]" for label, _ in self.links), " ".join(f"[{p.label}]" for p in self.presses)]
        return "\n".join(row for row in rows if row)


# A job as it goes.

NO_WORKER = (
    "Waiting: the machines that separate songs cannot be reached just now. The song is safe, and goes on by itself "
    "when they are back."
)


def job_card(view: JobView, *, now: datetime, refreshable: bool = False, retried: bool = False) -> Card:
    """The one message of a job, as it should look now. `refreshable`: the bot may lose its grip on the message, so a
    button offers to take hold of it again."""
    job = view.job
    if job.status is JobStatus.COMPLETED:
        return _result_card(view, now=now)
    if job.status is JobStatus.FAILED:
        return _failure_card(job, retried=retried)
    presses = [ButtonSpec("cancel", "Cancel", "danger")]
    if refreshable:
        presses.append(ButtonSpec("refresh", "Refresh"))
    waiting = job.status is JobStatus.PENDING
    return Card(
        heading=heading(job),
        body=NO_WORKER if view.no_worker else _queue_line(view) if waiting else _progress_line(view),
        small=_choices(job),
        accent=WAITING if waiting or view.no_worker else WORKING,
        presses=tuple(presses),
    )


def _queue_line(view: JobView) -> str:
    place = view.queue_place
    where = "Waiting" if place is None else "Next in the queue" if place == 1 else f"**{ordinal(place)}** in the queue"
    return where + (f" · done in {format_eta(view.eta_s)}" if view.eta_s is not None else "")


def _progress_line(view: JobView) -> str:
    job = view.job
    filled = round(job.progress / 100 * BAR_CELLS)
    line = f"{STAGES[job.stage]}\n{'▰' * filled}{'▱' * (BAR_CELLS - filled)} **{job.progress} %**"
    if view.eta_s is not None:
        line += f" · {format_eta(view.eta_s)} left"
    if view.on_cpu:
        line += "\nThe GPU has no memory left, so the CPU goes on: this takes longer."
    if job.attempt > 1:
        line += f"\nSomething went wrong on the way; this is attempt {job.attempt}."
    return line


def _result_card(view: JobView, *, now: datetime) -> Card:
    job, result = view.job, view.job.result
    assert result is not None
    stems = list(result.stems)
    what = "vocals and instrumental" if result.stems.instrumental is not None else f"{len(stems)} stems"
    length = f" · {format_duration(job.input_duration)} long" if job.input_duration is not None else ""
    links, spilled = _links(view)
    below = " · ".join(stem_phrase(stem, info) for stem, info in stems)
    if spilled:
        below += "\n" + " · ".join(f"[{label}](<{url}>)" for label, url in spilled)
    small = trust_card_lines(result)
    small.append(_choices(job, device=result.trust.device if result.trust is not None else None))
    expiry, presses = "", [ButtonSpec("delete", "Delete now", "danger")]
    if job.keep:
        expiry = "Kept until you delete it."
    elif view.links_expire_at is not None:
        gone = view.links_expire_at <= now
        expiry = f"{'Expired' if gone else 'Links expire'} {timestamp(view.links_expire_at)}"
        presses.insert(0, ButtonSpec("keep", "Keep"))
    return Card(
        heading=heading(job),
        body=f"Split into {what} in {format_elapsed(result.processing_time)}{length}",
        below="\n".join(part for part in (below, expiry) if part),
        small="\n".join(small),
        accent=DONE,
        picture=result.waveform_path is not None,
        links=links,
        presses=tuple(presses),
    )


def _links(view: JobView) -> tuple[tuple[tuple[str, str], ...], list[tuple[str, str]]]:
    """(links that fit on buttons, those that have to go into the text: as many as there is room for)."""
    named = [("Listen", view.page_url)] if view.page_url else []
    named += [("All as zip" if link.name == "zip" else link.name.capitalize(), link.url) for link in view.links]
    fitting = tuple((label, url) for label, url in named if len(url) <= LINK_BUTTON_LENGTH)
    spilled, room = [], TEXT_LENGTH - 1500
    for label, url in named:
        if len(url) > LINK_BUTTON_LENGTH and len(url) + 20 < room:
            spilled.append((label, url))
            room -= len(url) + 20
    return fitting, spilled


def _failure_card(job: Job, *, retried: bool) -> Card:
    again = () if retried else (ButtonSpec("retry", "Start again" if job.was_cancelled else "Retry", "go"),)
    if job.was_cancelled:
        # An upload's file is gone at once; a link can be fetched again.
        again = again if job.input_type is InputType.YOUTUBE_URL else ()
        return Card(heading=heading(job), body="Cancelled.", small=_choices(job), presses=again)
    free = "" if retried else "Retry does not count towards your hourly limit.\n"
    return Card(
        heading=heading(job),
        body=f"**This did not work.** {sanitize(job.error or '')}",
        small=free + _choices(job),
        accent=FAILED,
        presses=again,
    )


def accepted_card(name: str) -> Card:
    """Before anything is known about the job."""
    return Card(heading=escape(name), body="Having a look at it…", accent=WAITING)


def refused_card(name: str, error: StemifyError, now: datetime) -> Card:
    return Card(heading=escape(name), body=error_text(error, now), accent=FAILED)


def deleted_card() -> Card:
    return Card(heading="Deleted", body="The stems and the song are gone from this machine.")


def never_accepted_card() -> Card:
    return Card(
        heading="Please send that again",
        body="I was restarted before I had taken the song in, so there is no job for it. It cost you nothing.",
        accent=FAILED,
    )


# Around the job.


def announcement(job: Job, user_id: int, *, left_out: Sequence[str] = (), limit_bytes: int = 0) -> str:
    """The message that notifies, once. `left_out`: stems that are too large to be attached in this place."""
    if job.status is JobStatus.FAILED:
        return f"<@{user_id}> {escape(job.title)} could not be split. {sanitize(job.error or '')}"
    text = f"<@{user_id}> your stems of **{escape(job.title)}** are ready."
    if left_out:
        names = join_words([name.capitalize() for name in left_out])
        verb = "is" if len(left_out) == 1 else "are"
        most = f" ({size(limit_bytes)} at most)" if limit_bytes else ""
        text += f" {names} {verb} too large to attach here{most}: take the links on the card."
    return text


def more_stems(job: Job) -> str:
    """Goes with the stems that did not fit into the first message."""
    return f"More of **{escape(job.title)}**"


def job_line(view: JobView, url: str | None) -> str:
    """One line of `/job list`."""
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
    """What a job is called in an autocomplete list (no markdown there; 100 characters at most)."""
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
    """A refusal as a message: the sentence, and when to come back as a timestamp that Discord keeps current (in place
    of the time of day that follows in the error's own words)."""
    if isinstance(error, RetryLater) and error.retry_after_s > 0:
        reason = sanitize(error.message).split(". ")[0].rstrip(".")
        return f"{reason}. Try again {timestamp(now + timedelta(seconds=error.retry_after_s + 1))}."
    return sanitize(error.message)


def heading(job: Job) -> str:
    by = f" — {escape(job.artist, 60)}" if job.artist else ""
    return escape(job.title, 100) + by


def _choices(job: Job, device: str | None = None) -> str:
    options = job.options
    words = [options.model, options.quality.value, options.output_format.value]
    words += ["karaoke"] if options.remove_vocals else []
    words += ["normalized"] if options.normalize else []
    words += ["from YouTube"] if job.input_type is InputType.YOUTUBE_URL else []
    return " · ".join([*words, *([device] if device else [])])


def without_link_buttons(card: Card) -> Card:
    """For addresses that Discord does not take on buttons (such as http://localhost)."""
    room, kept = TEXT_LENGTH - len(card.body + card.below + card.small), []
    for label, url in card.links:
        if len(url) + len(label) + 10 < room:
            kept.append(f"[{label}](<{url}>)")
            room -= len(url) + len(label) + 10
    return replace(card, below="\n".join(part for part in (card.below, " · ".join(kept)) if part), links=())


def without_picture(card: Card) -> Card:
    """The card as an answer to a question: without the picture, which is on the job's own message."""
    return replace(card, picture=False)
