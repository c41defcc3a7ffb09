"""Submit the songs of one request as a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from bot.client import Stemify
from bot.database.batches import BatchSong
from bot.database.database import JobMessage, JobMessageState
from bot.messages.text import error_text
from bot.progress.batch_updater import BatchUpdater
from bot.submission import text
from bot.submission.songs import MAX_SONGS, Source, name_of
from bot.submission.submission import accept
from engine.errors import InputRefused, InternalError, StemifyError
from engine.jobs.entity import new_job_id
from engine.jobs.options import StemSeparationOptions

log = logging.getLogger(__name__)

MAX_NAMED = 10  # of the songs that are left out


async def submit_batch(
    bot: Stemify,
    batch: JobMessage,
    sources: Sequence[Source],
    options: StemSeparationOptions,
    *,
    min_duration_s: float = 0.0,
    on_accepted: Callable[[], None] = lambda: None,
) -> None:
    """Submit the songs one after the other; the message appears with the first accepted one.

    A refused song is named in the message. Raises `InputRefused` if all are refused; then there is no message.
    """
    batch = replace(batch, is_batch=True)
    songs = [BatchSong(new_job_id(), name_of(source)) for source in sources[:MAX_SONGS]]
    left_out = [name_of(source) for source in sources[MAX_SONGS:]]
    if len(left_out) > MAX_NAMED:
        left_out[MAX_NAMED - 1 :] = [text.more_left_out(len(left_out) - MAX_NAMED + 1)]
    songs += [BatchSong(new_job_id(), name, text.too_many(MAX_SONGS)) for name in left_out]
    await bot.database.add(batch)
    await bot.database.batches.add(batch.job_id, songs)
    updater: BatchUpdater | None = None
    refusals: list[str] = []
    for song, source in zip(songs[:MAX_SONGS], sources, strict=False):
        if updater is not None and updater.is_cancelled:
            await bot.database.batches.refuse(song.job_id, text.CANCELLED)
            continue
        job_message = replace(batch, job_id=song.job_id, is_batch=False)
        refusal = await _submit_song(bot, job_message, source, options, min_duration_s)
        if refusal is not None:
            await bot.database.batches.refuse(song.job_id, refusal)
            refusals.append(text.refused_song(song.name, refusal))
        elif updater is None:
            updater = bot.progress.follow_batch(batch, is_submitting=True)
            on_accepted()
            updater.follow_song(song.job_id)
        elif not updater.is_cancelled:
            updater.follow_song(song.job_id)
        else:  # cancelled while it was being accepted
            await bot.service.delete(song.job_id, by=batch.owner)
            await bot.database.delete(song.job_id)
            await bot.database.batches.refuse(song.job_id, text.CANCELLED)
        if updater is not None:
            updater.notify()
    if updater is None:
        await bot.database.delete(batch.job_id)
        raise InputRefused("\n".join([text.NONE_ACCEPTED, *refusals]))
    if not updater.is_cancelled:
        await bot.database.set_state(batch.job_id, JobMessageState.FOLLOWING)
    updater.end_submission()


async def _submit_song(
    bot: Stemify, job_message: JobMessage, source: Source, options: StemSeparationOptions, min_duration_s: float
) -> str | None:
    """Submit one song and return why it was refused, or None."""
    try:
        await accept(bot, job_message, source, options, min_duration_s=min_duration_s)
    except StemifyError as error:
        return error_text(error, datetime.now(UTC))
    except Exception:
        log.exception("submitting a song of a batch failed", extra={"job": job_message.job_id})
        return InternalError().message
    return None
