"""The jobs that were started in a server lately."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from bot.cards.job_lines import status_text
from bot.client import Stemify
from bot.database.database import JobMessage
from bot.database.servers import ServerJob
from bot.servers import text
from bot.text import clip_lines, timestamp
from engine.errors import NotFound
from engine.jobs.job import JobView

SHOWN_JOBS = 10
SHOWN_USERS = 10
_MOST_JOBS = 25  # Discord's limit of choices
_PRIVATE = {"title": text.PRIVATE_SONG, "artist": None}


async def jobs_in(
    bot: Stemify, guild_id: int, *, limit: int = _MOST_JOBS
) -> list[tuple[ServerJob, JobView, JobMessage | None]]:
    """Return the newest jobs of a server that still exist, without the titles of private ones, with their messages."""
    found, server_jobs = [], await bot.database.servers.jobs(guild_id, limit=limit)
    job_messages = await bot.database.job_messages(job.job_id for job in server_jobs)
    for server_job in server_jobs:
        try:
            view = await bot.service.get(server_job.job_id)
        except NotFound:  # deleted
            continue
        message = job_messages.get(server_job.job_id)
        if view.job.place is None or (message is not None and message.is_private):
            view = view.model_copy(update={"job": view.job.model_copy(update=_PRIVATE)})
        found.append((server_job, view, message))
    return found


async def activity_text(bot: Stemify, guild_id: int) -> str:
    jobs = await bot.database.servers.jobs(guild_id, limit=1000)
    if not jobs:
        return text.NO_ACTIVITY
    counts = Counter(job.user_id for job in jobs).most_common(SHOWN_USERS)
    lines = [text.activity(len(jobs), counts), text.ACTIVITY_COMMANDS]
    for server_job, view, message in await jobs_in(bot, guild_id, limit=SHOWN_JOBS):
        url = None if message is None or message.is_private else message.url
        when = timestamp(datetime.fromtimestamp(server_job.at, UTC))
        lines.append(text.activity_line(view.job.title, url, server_job.user_id, status_text(view), when))
    return clip_lines(lines)
