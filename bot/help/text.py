"""What users read in the welcome message, in `/help` and in `/privacy`."""

from __future__ import annotations

import discord

from bot.links import is_public
from bot.text import counted, escape
from config.settings import Discord, Limits, Settings

HELP_DESCRIPTION = "How to split songs, with the limits and defaults that apply here"
PRIVACY_DESCRIPTION = "What is stored, where, how long, and who can hear it"
NO_NAME = "an operator who gives no name"
PLAY = " `/play` plays one in your voice channel."
NO_LINKS = "There are no links."


def welcome_text(settings: Settings, defaults: Discord, operator: str) -> str:
    """Return the message for a server that the bot has joined."""
    return (
        f"Hello! I split songs into vocals, drums, bass and the rest.\n{_ways_text()}\n"
        f"{_limits_text(settings.limits, None)} By default: {_defaults_text(defaults)}.\n"
        "`/help` shows this, `/privacy` what is stored. Server managers decide with `/settings` who may use me, where"
        f" and how often.\n{_operator_text(operator)}"
    )


def help_text(
    settings: Settings, defaults: Discord, operator: str, jobs_per_hour: int | None, *, has_voice: bool
) -> str:
    """Return the answer of `/help`; `jobs_per_hour`: that the server allows everyone."""
    return (
        f"I split songs into vocals, drums, bass and the rest.\n{_ways_text()}\n"
        f"{_limits_text(settings.limits, jobs_per_hour)} By default: {_defaults_text(defaults)}.\n"
        "The buttons of a result make karaoke and other mixes, *More* shows details and lets you delete it. `/job list`"
        f" shows your songs.{PLAY if has_voice else ''}\n"
        "`/privacy` shows what is stored. Server managers: `/settings`.\n"
        f"{_operator_text(operator)}"
    )


def privacy_text(settings: Settings, operator: str) -> str:
    """Return what is stored, where, how long and who can hear it."""
    retention = settings.retention
    song = f"{_days(retention.input_days)} after it was split" if retention.input_days else "until it is split"
    where = "the operator's machine" if settings.storage.url is None else "the operator's object storage"
    links = NO_LINKS
    if settings.web.public_url is not None and is_public(settings.web.public_url):
        links = (
            f"A link on a result works for everyone who has it, for {_days(settings.web.link_lifetime_days)} at most."
        )
    lines = [
        "**What is stored, and how long**",
        f"- your song: {song}; after a failure {_days(retention.failed_days)}",
        f"- stems, mixes and pictures: {_days(retention.stems_days)}, or with *Keep* until you delete them",
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


def _days(count: int) -> str:
    return counted(count, one="{} day", other="{} days")


def _ways_text() -> str:
    return (
        "- `/stemify` with a file or a YouTube link\n"
        "- right-click a message with a song (on a phone: press and hold) → Apps → Stemify, Karaoke or"
        " Stemify with options\n"
        "- in a channel in which a server manager has run `/listen`, post a song and press the button below it"
    )


def _limits_text(limits: Limits, jobs_per_hour: int | None) -> str:
    hourly = limits.jobs_per_hour if jobs_per_hour is None else min(jobs_per_hour, limits.jobs_per_hour)
    return (
        f"Songs may be up to {limits.input_bytes / 2**20:.4g} MB and {limits.input_duration_s / 60:.4g} minutes long;"
        f" {counted(hourly, one='{} song', other='{} songs')} an hour for each user."
    )


def _defaults_text(defaults: Discord) -> str:
    return f"model {defaults.default_model}, quality {defaults.default_quality}, format {defaults.default_format}"


def _operator_text(operator: str) -> str:
    return f"This bot is run by {operator}."


def operator_name(contact: str | None, team: str | None, owner: str | None) -> str:
    """Return who runs the bot: the configured contact, or the team or the owner of the application."""
    if contact:
        return escape(contact, 200)
    return f"the team {discord.utils.escape_markdown(team)}" if team else owner or NO_NAME
