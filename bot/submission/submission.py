"""Create jobs, with records from which a restart continues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bot.client import Stemify
from bot.database.database import JobMessage, JobMessageState
from bot.submission.songs import Source
from engine.jobs.job import JobView
from engine.jobs.options import StemSeparationOptions
from engine.service.service import Submission


async def accept(
    bot: Stemify,
    job_message: JobMessage,
    source: Source,
    options: StemSeparationOptions,
    *,
    min_duration_s: float = 0.0,
) -> JobView:
    """Record the job's message and submit the job. Raises the service's errors."""
    submission = Submission(
        source=source,
        options=options,
        owner=job_message.owner,
        scope=f"discord:{job_message.guild_id}" if job_message.guild_id else None,
        place=f"discord:{job_message.channel_id}" if job_message.channel_id and not job_message.is_private else None,
        job_id=job_message.job_id,
        min_duration_s=min_duration_s,
    )
    return await _create(bot, job_message, lambda: bot.service.submit(submission))


async def submit(
    bot: Stemify,
    job_message: JobMessage,
    source: Source,
    options: StemSeparationOptions,
    *,
    min_duration_s: float = 0.0,
) -> JobView:
    """Submit the job as `accept` does, and follow its message."""
    view = await accept(bot, job_message, source, options, min_duration_s=min_duration_s)
    bot.progress.follow(job_message)
    return view


async def follow_new_job(bot: Stemify, job_message: JobMessage, create: Callable[[], Awaitable[JobView]]) -> JobView:
    """Record the job's message, create the job and follow it. Raises the errors of `create`."""
    view = await _create(bot, job_message, create)
    bot.progress.follow(job_message)
    return view


async def _create(bot: Stemify, job_message: JobMessage, create: Callable[[], Awaitable[JobView]]) -> JobView:
    """Record the job's message, and create the job. A restart in between finds the record."""
    await bot.rules.record_job(job_message)
    await bot.database.add(job_message)
    try:
        view = await create()
    except Exception:
        await bot.database.delete(job_message.job_id)
        await bot.database.servers.delete_job(job_message.job_id)
        raise
    await bot.database.set_state(job_message.job_id, JobMessageState.FOLLOWING)
    return view
