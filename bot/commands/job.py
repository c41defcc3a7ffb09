"""`/job status|list|cancel|delete`, and the actions of a job's buttons."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import discord
from discord import app_commands

from bot.cards.buttons import ConfirmDelete, ConfirmDeleteEverything, JobButtons, layout
from bot.cards.card import CHOICES, WINNERS, without_picture
from bot.cards.failures import FALLBACK_MODEL
from bot.cards.job_card import job_card
from bot.cards.more_card import more_buttons, more_text
from bot.client import Stemify
from bot.commands import text
from bot.commands.answers import show_deletion
from bot.commands.batch import ask_to_delete_batch, cancel_batch, delete_batch
from bot.commands.comparison import ask_for_models, choose_model, separate_with_winner
from bot.commands.job_list import job_choices, show_job_list
from bot.commands.permissions import check_can_delete, check_can_see, check_owner
from bot.commands.play import play_job
from bot.commands.result import (
    ask_for_mix,
    ask_to_separate_again,
    post_preset,
    show_details,
    show_more,
)
from bot.commands.stemify import job_message_of, new_job_message, owner_of, token_until
from bot.messages.messenger import retry_on_disconnect
from bot.messages.responses import acknowledge, mark_answered
from bot.progress.message_updater import show_result
from bot.submission.submission import follow_new_job
from engine.errors import InvalidState, NotAllowed
from engine.jobs.job import JobView

log = logging.getLogger(__name__)

DEFER_AFTER_S = 0.15  # defer answers that take longer


# Buttons.


async def run_action(interaction: discord.Interaction[Stemify], action: str, job_id: str) -> None:
    """Run the action of a job's button. Raises `StemifyError`."""
    actions: dict[str, Callable[[discord.Interaction[Stemify], str], Awaitable[None]]] = {
        "cancel": _cancel,
        "retry": _retry,
        "retry_fallback": partial(_retry, model=FALLBACK_MODEL),
        "keep": _keep,
        "delete": _ask_to_delete,
        "confirm_delete": _delete,
        "refresh": _refresh,
        "more": show_more,
        "details": show_details,
        "again": ask_to_separate_again,
        "compare": ask_for_models,
        **{action: partial(choose_model, label=label) for label, action in CHOICES.items()},
        **{action: partial(separate_with_winner, label=label) for label, action in WINNERS.items()},
        "karaoke": partial(post_preset, mix="karaoke"),
        "no_drums": partial(post_preset, mix="no_drums"),
        "no_bass": partial(post_preset, mix="no_bass"),
        "mix": ask_for_mix,
        "voice": play_job,
        "cancel_all": cancel_batch,
        "delete_all": ask_to_delete_batch,
        "confirm_delete_all": delete_batch,
    }
    await actions[action](interaction, job_id)


async def _cancel(interaction: discord.Interaction[Stemify], job_id: str) -> None:
    await acknowledge(interaction)
    service = interaction.client.service
    view = await service.get(job_id)
    check_can_delete(interaction, view)
    view = await service.cancel(job_id, by=view.job.owner)
    await _update(interaction, view)


async def _retry(interaction: discord.Interaction[Stemify], job_id: str, model: str | None = None) -> None:
    bot = interaction.client
    is_private = await bot.database.is_private(job_id)
    message_id = await acknowledge(interaction, thinking=True, ephemeral=is_private)
    check_owner(interaction, await bot.service.get(job_id))
    job_message = new_job_message(interaction, message_id, is_private=is_private)
    by = owner_of(interaction.user)
    await follow_new_job(
        bot, job_message, lambda: bot.service.retry(job_id, by=by, new_id=job_message.job_id, model=model)
    )
    mark_answered(interaction)
    before = await bot.database.job_message(job_id)
    if before is not None and before.message_id is not None and before.batch_id is None:
        view = await bot.service.get(job_id)
        with suppress(discord.HTTPException):  # the old card keeps its button; pressing it is refused
            await bot.messages.show(before, job_card(view, now=datetime.now(UTC), retried=True))


async def _keep(interaction: discord.Interaction[Stemify], job_id: str) -> None:
    await acknowledge(interaction)
    bot = interaction.client
    check_owner(interaction, await bot.service.get(job_id))
    view = await bot.service.keep(job_id, by=owner_of(interaction.user))
    if interaction.message is None or not interaction.message.flags.ephemeral:  # on a card of an earlier version
        await _update(interaction, view)
        return
    now = datetime.now(UTC)
    has_song = await bot.service.has_song(view.job)
    specs = more_buttons(view, now, is_owner=True, may_delete=True, has_song=has_song)
    buttons = JobButtons(specs, job_id)
    await retry_on_disconnect(lambda: interaction.edit_original_response(content=more_text(view, now), view=buttons))
    card = await bot.database.job_message(job_id)
    if card is not None and card.message_id is not None and card.batch_id is None:
        with suppress(discord.HTTPException):  # the card still states the date; `More` does not
            await show_result(bot.messages, bot.service, card, view)


async def _refresh(interaction: discord.Interaction[Stemify], job_id: str) -> None:
    await acknowledge(interaction)
    bot = interaction.client
    job_message = await bot.database.job_message(job_id)
    view = None if job_message is not None and job_message.is_batch else await bot.service.get(job_id)
    if job_message is not None and interaction.message is not None and job_message.message_id == interaction.message.id:
        until = token_until()
        await bot.database.set_token(job_id, interaction.token, until)
        if bot.progress.refresh_token(job_id, interaction.token, until):
            return
    if view is not None:
        await _update(interaction, view)


async def _update(interaction: discord.Interaction[Stemify], view: JobView) -> None:
    """Update the button's message, unless the job is running and its message is followed."""
    if not view.job.is_over or interaction.message is None:
        return
    job_message = job_message_of(interaction, interaction.message.id, view.job.id)
    if interaction.message.attachments:  # the picture is already there
        await interaction.client.messages.show(job_message, job_card(view, now=datetime.now(UTC)))
    else:
        await show_result(interaction.client.messages, interaction.client.service, job_message, view)


async def _ask_to_delete(interaction: discord.Interaction[Stemify], job_id: str) -> None:
    view = await _get_or_defer(interaction, job_id)
    check_can_delete(interaction, view)
    await _reply(interaction, text.ask_delete(view.job.title), view=ConfirmDelete(job_id))


async def _delete(interaction: discord.Interaction[Stemify], job_id: str) -> None:
    await acknowledge(interaction)
    bot = interaction.client
    view = await bot.service.get(job_id)
    check_can_delete(interaction, view)
    await show_deletion(interaction, await bot.deletion.delete(view))


async def ask_to_delete_everything(interaction: discord.Interaction[Stemify]) -> None:
    await _reply(interaction, text.ASK_DELETE_EVERYTHING, view=ConfirmDeleteEverything(interaction.user.id))


async def delete_everything(interaction: discord.Interaction[Stemify], user_id: int) -> None:
    """Delete all jobs of the user who pressed the button."""
    await acknowledge(interaction)
    if interaction.user.id != user_id:
        raise NotAllowed
    count, deletion = await interaction.client.deletion.delete_all(user_id, owner_of(interaction.user))
    if not count:
        answer = text.NOTHING_TO_DELETE
        await retry_on_disconnect(lambda: interaction.edit_original_response(content=answer, view=None))
        return
    await show_deletion(interaction, deletion, text.deleted_everything(count))


# Answers.


async def _get_or_defer(interaction: discord.Interaction[Stemify], job_id: str) -> JobView:
    """Return the job; if that takes long, defer the answer as a private one."""
    lookup = asyncio.ensure_future(interaction.client.service.get(job_id))
    await asyncio.wait([lookup], timeout=DEFER_AFTER_S)
    if not lookup.done():
        await acknowledge(interaction, ephemeral=True, thinking=True)
    return await lookup


async def _reply(
    interaction: discord.Interaction[Stemify],
    content: str | None = None,
    *,
    view: discord.ui.View | discord.ui.LayoutView,
) -> None:
    if interaction.extras.get("thinking") is not None:
        await retry_on_disconnect(lambda: interaction.edit_original_response(content=content, view=view))
    elif isinstance(view, discord.ui.LayoutView):
        await retry_on_disconnect(lambda: interaction.response.send_message(view=view, ephemeral=True))
    else:
        await retry_on_disconnect(lambda: interaction.response.send_message(content, view=view, ephemeral=True))


# Commands.


class JobCommands(app_commands.Group):
    """The command group `/job`."""

    def __init__(self) -> None:
        super().__init__(name="job", description=text.JOB_DESCRIPTION)

    @app_commands.command(description=text.STATUS_DESCRIPTION)
    @app_commands.describe(job=text.YOUR_JOB)
    async def status(self, interaction: discord.Interaction[Stemify], job: str) -> None:
        view = await _get_or_defer(interaction, job)
        check_can_see(interaction, view)
        card = job_card(view, now=datetime.now(UTC))
        await _reply(interaction, view=layout(without_picture(card), view.job.id))

    @app_commands.command(name="list", description=text.LIST_DESCRIPTION)
    async def list_(self, interaction: discord.Interaction[Stemify]) -> None:
        await show_job_list(interaction, page=0)

    @app_commands.command(description=text.CANCEL_DESCRIPTION)
    @app_commands.describe(job=text.YOUR_JOB)
    async def cancel(self, interaction: discord.Interaction[Stemify], job: str) -> None:
        await acknowledge(interaction, ephemeral=True)
        service = interaction.client.service
        view = await service.get(job)
        check_can_delete(interaction, view)
        if view.job.is_over:
            raise InvalidState(text.ALREADY_FINISHED)
        view = await service.cancel(job, by=view.job.owner)
        answer = text.cancelled(view.job.title) if view.job.was_cancelled else text.FINISHED_MEANWHILE
        await retry_on_disconnect(lambda: interaction.edit_original_response(content=answer))

    @app_commands.command(description=text.DELETE_DESCRIPTION)
    @app_commands.describe(job=text.YOUR_JOB_OR_EVERYTHING)
    async def delete(self, interaction: discord.Interaction[Stemify], job: str) -> None:
        if job.strip().casefold() == text.EVERYTHING:
            await ask_to_delete_everything(interaction)
        else:
            await _ask_to_delete(interaction, job)

    @delete.autocomplete("job")
    async def _complete_delete(
        self, interaction: discord.Interaction[Stemify], current: str
    ) -> list[app_commands.Choice[str]]:
        choices = await job_choices(interaction, current)
        if choices or current.casefold() in text.EVERYTHING:
            choices = [*choices[:24], app_commands.Choice(name=text.EVERYTHING_CHOICE, value=text.EVERYTHING)]
        return choices

    @status.autocomplete("job")
    async def _complete_status(
        self, interaction: discord.Interaction[Stemify], current: str
    ) -> list[app_commands.Choice[str]]:
        return await job_choices(interaction, current)

    @cancel.autocomplete("job")
    async def _complete_cancel(
        self, interaction: discord.Interaction[Stemify], current: str
    ) -> list[app_commands.Choice[str]]:
        return await job_choices(interaction, current, active_only=True)
