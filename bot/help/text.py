"""What the bot says about itself and about what is stored."""

from __future__ import annotations

from bot.links import is_public
from bot.text import escape
from config.settings import Discord, Limits, Settings
from engine.text import plural

NO_LINKS = "There are no links."


def welcome_text(settings: Settings, defaults: Discord, operator: str) -> str:
    """Return the message for a server that the bot has joined."""
    return (
        f"Hello! I split songs into vocals, drums, bass and the rest.\n{_ways_text()}\n"
        f"{_limits_text(settings.limits, None)} By default: {_defaults_text(defaults)}.\n"
        "`/help` shows this, `/privacy` what is stored. Server managers decide with `/settings` who may use me, where"
        f" and how often.\n{_operator_text(operator)}"
    )


def help_text(settings: Settings, defaults: Discord, operator: str, jobs_per_hour: int | None) -> str:
    """Return the answer of `/help`; `jobs_per_hour`: that the server allows everyone."""
    return (
        f"I split songs into vocals, drums, bass and the rest.\n{_ways_text()}\n"
        f"{_limits_text(settings.limits, jobs_per_hour)} By default: {_defaults_text(defaults)}.\n"
        "The buttons of a result make karaoke and other mixes, *More* shows details and lets you delete it. `/job list`"
        " shows your songs.\n`/privacy` shows what is stored. Server managers: `/settings`.\n"
        f"{_operator_text(operator)}"
    )


def privacy_text(settings: Settings, operator: str) -> str:
    """Return what is stored, where, how long and who can hear it."""
    retention, days = settings.retention, "day"
    song = f"{plural(retention.input_days, days)} after it was split" if retention.input_days else "until it is split"
    where = "the operator's machine" if settings.storage.url is None else "the operator's object storage"
    links = NO_LINKS
    if settings.web.public_url is not None and is_public(settings.web.public_url):
        links = (
            "A link on a result works for everyone who has it, for"
            f" {plural(settings.web.link_lifetime_days, days)} at most."
        )
    lines = [
        "**What is stored, and how long**",
        f"- your song: {song}; after a failure {plural(retention.failed_days, days)}",
        f"- stems, mixes and pictures: {plural(retention.stems_days, days)}, or with *Keep* until you delete them",
        "- title, options, measurements and time of a job, with your Discord id: until you delete the job",
        "- who started which job in a server: 30 days; server managers see it",
        "- the settings of a server, with the ids of blocked users: until I leave the server",
        f"**Where:** on {where}. Files that I post are also on Discord, until the message is deleted.",
        "**Who can hear it:** everyone in the channel in which I post or play, and the operator; with `private:` only"
        f" you and the operator. {links}",
        "**Delete:** `/job delete` deletes a job or all your jobs, with the songs, stems and my messages about them.",
        _operator_text(operator),
    ]
    return "\n".join(lines)


def _ways_text() -> str:
    return (
        "- `/stemify` with a file or a YouTube link\n"
        "- right-click a message with a song (on a phone: press and hold) → Apps → Stemify or Karaoke\n"
        "- in a channel in which a server manager has run `/listen`, post a song and press the button below it"
    )


def _limits_text(limits: Limits, jobs_per_hour: int | None) -> str:
    hourly = limits.jobs_per_hour if jobs_per_hour is None else min(jobs_per_hour, limits.jobs_per_hour)
    return (
        f"Songs may be up to {limits.input_bytes / 2**20:.4g} MB and {limits.input_duration_s / 60:.4g} minutes long;"
        f" {plural(hourly, 'song')} an hour for each user."
    )


def _defaults_text(defaults: Discord) -> str:
    return f"model {defaults.default_model}, quality {defaults.default_quality}, format {defaults.default_format}"


def _operator_text(operator: str) -> str:
    return f"This bot is run by {operator}."


def operator_name(contact: str | None, owner: str) -> str:
    """Return who runs the bot: the configured contact, or the owner of the application."""
    return escape(contact, 200) if contact else owner
