"""`/stemify`: submit jobs and follow their messages."""

from __future__ import annotations

import time
from dataclasses import replace

import discord
from discord import app_commands

from bot.client import Stemify
from bot.commands import text
from bot.database.database import JobMessage
from bot.messages.responses import acknowledge, mark_answered
from bot.submission.batch import submit_batch
from bot.submission.estimates import format_note, model_choices, quality_choices
from bot.submission.songs import Source, links_in, source_of
from bot.submission.submission import submit
from bot.submission.text import FORMATS
from config.settings import Settings
from engine.errors import BadOptions
from engine.jobs.entity import new_job_id
from engine.jobs.options import StemSeparationOptions
from engine.service.service import Link

TOKEN_TTL_S = 15 * 60.0


def owner_of(user: discord.abc.User) -> str:
    return f"discord:{user.id}"


def reachable(interaction: discord.Interaction[Stemify]) -> bool:
    """Whether the bot may write in the channel without the interaction's token.

    A wrong answer does no harm: Discord then refuses the message, and the token is used.
    """
    if interaction.guild_id is None:
        return not interaction.context.private_channel
    allowed = interaction.app_permissions
    may_write = (
        allowed.send_messages_in_threads if isinstance(interaction.channel, discord.Thread) else allowed.send_messages
    )
    is_known = allowed.value != 0
    return interaction.client.get_guild(interaction.guild_id) is not None and (
        not is_known or (allowed.view_channel and may_write)
    )


def token_until() -> float:
    """Return when the token of an interaction that just arrived expires, by this machine's clock."""
    return time.time() + TOKEN_TTL_S


def job_message_of(
    interaction: discord.Interaction[Stemify], message_id: int, job_id: str, *, original: bool = True
) -> JobMessage:
    """Return the message of a job that an interaction creates; `original`: it is the interaction's response."""
    return JobMessage(
        job_id=job_id,
        user_id=interaction.user.id,
        channel_id=interaction.channel_id or 0,
        guild_id=interaction.guild_id,
        message_id=message_id,
        original=original,
        token=interaction.token,
        token_until=token_until(),
        reachable=reachable(interaction),
        limit_bytes=interaction.filesize_limit,
    )


def new_job_message(
    interaction: discord.Interaction[Stemify], message_id: int, *, is_private: bool = False
) -> JobMessage:
    """Return the message of a new job, in the response to the interaction. Raises `NotAllowed`."""
    jobs_per_hour = interaction.client.rules.check_may_start_here(interaction)
    job_message = replace(job_message_of(interaction, message_id, new_job_id()), jobs_per_hour=jobs_per_hour)
    return private(job_message) if is_private else job_message


def private(job_message: JobMessage) -> JobMessage:
    """Return the job message for an answer that only the user sees: it is edited with the token only."""
    return replace(job_message, is_private=True, reachable=False)


async def start_jobs(
    interaction: discord.Interaction[Stemify],
    sources: list[Source],
    options: StemSeparationOptions,
    *,
    source_id: int | None = None,
    answer_id: int | None = None,
    is_private: bool = False,
) -> None:
    """Start a job, or a batch for several sources. Raises the error of a refused song, or of all songs.

    `source_id`: of the message with the songs; its deletion ends the job. `answer_id`: of the deferred answer, if the
    interaction has been acknowledged.
    """
    message_id = (
        answer_id if answer_id is not None else await acknowledge(interaction, thinking=True, ephemeral=is_private)
    )
    bot, job_message = interaction.client, new_job_message(interaction, message_id, is_private=is_private)
    if source_id is not None:
        await bot.database.listening.set_source(job_message.job_id, source_id)
    if len(sources) == 1:
        await submit(bot, job_message, sources[0], options)
        mark_answered(interaction)
    else:
        await submit_batch(bot, job_message, sources, options, on_accepted=lambda: mark_answered(interaction))


@app_commands.command(name="stemify", description=text.STEMIFY_DESCRIPTION)
@app_commands.rename(output_format="format")
@app_commands.choices(
    output_format=[
        app_commands.Choice(name=text.format_choice(kind, format_note(kind)), value=kind.value) for kind in FORMATS
    ],
)
async def stemify_command(
    interaction: discord.Interaction[Stemify],
    file: discord.Attachment | None = None,
    url: str | None = None,
    model: str | None = None,
    quality: str | None = None,
    output_format: str | None = None,
    karaoke: bool = False,
    normalize: bool = False,
    private: bool = False,
) -> None:
    if (file is None) == (url is None):
        raise BadOptions(text.ONE_SONG)
    options = interaction.client.options(
        interaction.guild_id,
        model=model,
        quality=quality,
        output_format=output_format,
        karaoke=karaoke,
        normalize=normalize,
    )
    sources: list[Source] = [source_of(file)] if file is not None else [*(links_in(url or "") or [Link(url or "")])]
    await start_jobs(interaction, sources, options, is_private=private)


def describe_options(settings: Settings) -> None:
    """Describe the options of `/stemify`, with the limits and defaults of these settings."""
    limits, defaults = settings.limits, settings.discord
    app_commands.describe(
        file=text.file(limits.input_bytes / 2**20, limits.input_duration_s / 60),
        url=text.URL,
        model=text.MODEL,
        quality=text.QUALITY,
        output_format=text.output_format(defaults.default_format),
        karaoke=text.ONLY_KARAOKE,
        private=text.PRIVATE,
        normalize=text.NORMALIZE,
    )(stemify_command)


@stemify_command.autocomplete("model")
async def _complete_model(interaction: discord.Interaction[Stemify], current: str) -> list[app_commands.Choice[str]]:
    chosen = await model_choices(interaction.client, interaction.guild_id, interaction.namespace.quality)
    return [app_commands.Choice(name=name, value=model) for model, name in chosen if current.casefold() in model][:25]


@stemify_command.autocomplete("quality")
async def _complete_quality(interaction: discord.Interaction[Stemify], current: str) -> list[app_commands.Choice[str]]:
    chosen = await quality_choices(interaction.client, interaction.guild_id, interaction.namespace.model)
    return [app_commands.Choice(name=name, value=quality) for quality, name in chosen if current.casefold() in quality]
