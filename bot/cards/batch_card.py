"""The card and the texts of a batch: several songs of one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards import text
from bot.cards.card import DONE, FAILED, WORKING, ButtonSpec, Card
from bot.cards.failures import failure_text
from bot.cards.job_lines import status_text
from bot.cards.result_facts import seems_failed
from bot.text import clean, escape
from engine.jobs.job import JobStatus, JobView

MAX_TITLE_LENGTH = 40  # with reasons of this length, 20 lines fit into a message
MAX_REASON_LENGTH = 150


@dataclass(frozen=True)
class SongState:
    """A song as its line shows it; without view and refusal it is being checked."""

    name: str
    view: JobView | None = None
    refusal: str | None = None
    url: str | None = None  # of the message with the stems
    is_deleted: bool = False

    @property
    def is_done(self) -> bool:
        return not self.is_deleted and self.view is not None and self.view.job.status is JobStatus.COMPLETED

    @property
    def is_over(self) -> bool:
        return self.is_deleted or self.refusal is not None or (self.view is not None and self.view.job.is_over)


def batch_card(songs: Sequence[SongState], *, refreshable: bool = False) -> Card:
    """Return a card with the number of finished songs and a line for each song."""
    done, over = sum(song.is_done for song in songs), all(song.is_over for song in songs)
    if not over:
        buttons = [ButtonSpec("cancel_all", text.CANCEL_ALL, "danger")]
        buttons += [ButtonSpec("refresh", text.REFRESH)] if refreshable else []
    else:
        buttons = [ButtonSpec("delete_all", text.DELETE_ALL, "danger")] if done else []
    return Card(
        heading=text.batch_heading(done, len(songs)),
        below="\n".join(f"{number}. {_line(song)}" for number, song in enumerate(songs, start=1)),
        accent=WORKING if not over else DONE if done else FAILED,
        buttons=tuple(buttons),
    )


def _line(song: SongState) -> str:
    title = escape(song.view.job.title if song.view is not None else song.name, MAX_TITLE_LENGTH)
    if song.is_done and song.url is not None:
        return f"[{title}](<{song.url}>) · {_status(song)}"
    return f"**{title}** · {_status(song)}"


def _status(song: SongState) -> str:
    if song.is_deleted:
        return text.DELETED
    if song.refusal is not None:
        return clean(song.refusal, MAX_REASON_LENGTH)
    if song.view is None:
        return text.CHECKING
    job = song.view.job
    if job.status is JobStatus.FAILED and not job.was_cancelled:
        return clean(failure_text(job), MAX_REASON_LENGTH)
    if job.result is not None and seems_failed(job.result):
        return text.SEEMS_FAILED
    return status_text(song.view)


def batch_announcement(songs: Sequence[SongState], user_id: int) -> str | None:
    """Return the text that mentions the requester at the end; None if all songs were cancelled or deleted."""
    done = sum(song.is_done for song in songs)
    failed = sum(song.view is not None and song.view.job.status is JobStatus.FAILED for song in songs)
    cancelled = sum(song.view is not None and song.view.job.was_cancelled for song in songs)
    if not done and failed == cancelled:
        return None
    if not done:
        return text.batch_failed(user_id, len(songs))
    return text.batch_done(user_id, done, len(songs))
