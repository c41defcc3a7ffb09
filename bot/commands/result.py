"""The buttons and forms of a result's card: mixes, details, and another separation of the song."""

from __future__ import annotations

from datetime import UTC, datetime

import discord

from bot.cards.buttons import JobButtons
from bot.cards.card import MIXES, Action
from bot.cards.more_card import details_text, more_buttons, more_text
from bot.client import Stemify
from bot.commands import text
from bot.commands.permissions import check_can_see, check_owner, is_owner, may_delete
from bot.commands.stemify import job_message_of, new_job_message, owner_of, private
from bot.forms.form import FilledForm
from bot.forms.mix_form import mix_form, mix_request
from bot.forms.options_form import again_form, changed_options
from bot.messages.messenger import retry_on_disconnect
from bot.messages.responses import acknowledge
from bot.submission.submission import follow_new_job
from engine.jobs.job import JobView
from engine.service.service import MixRequest


async def show_more(interaction: discord.Interaction[Stemify], job_id: str) -> None:
    """Answer privately with what the user may do with a result. Raises the service's errors."""
    await acknowledge(interaction, thinking=True, ephemeral=True)
    view, now = await visible_job(interaction, job_id), datetime.now(UTC)
    by_owner, has_song = is_owner(interaction, view), await interaction.client.service.has_song(view.job)
    deletes = may_delete(interaction, view)
    buttons = more_buttons(view, now, is_owner=by_owner, may_delete=deletes, has_song=has_song)
    answer = more_text(view, now)
    await retry_on_disconnect(
        lambda: interaction.edit_original_response(content=answer, view=JobButtons(buttons, job_id))
    )


async def show_details(interaction: discord.Interaction[Stemify], job_id: str) -> None:
    """Answer privately with what was measured. Raises the service's errors."""
    await acknowledge(interaction, thinking=True, ephemeral=True)
    answer = details_text((await visible_job(interaction, job_id)).job)
    await retry_on_disconnect(lambda: interaction.edit_original_response(content=answer))


async def visible_job(interaction: discord.Interaction[Stemify], job_id: str) -> JobView:
    """Return a job that the user may see. Raises the service's errors."""
    view = await interaction.client.service.get(job_id)
    check_can_see(interaction, view)
    return view


# Mixes.


async def post_preset(interaction: discord.Interaction[Stemify], job_id: str, mix: Action) -> None:
    """Post the mix of a button. Raises `StemifyError`."""
    await acknowledge(interaction, thinking=True, ephemeral=True)
    _, left_out = MIXES[mix]
    await _post_mix(interaction, await visible_job(interaction, job_id), MixRequest(gains={left_out: 0.0}))


async def ask_for_mix(interaction: discord.Interaction[Stemify], job_id: str) -> None:
    """Answer with a form. Raises the service's errors."""
    form = mix_form((await visible_job(interaction, job_id)).job)
    await retry_on_disconnect(lambda: interaction.response.send_modal(form))


async def post_asked_mix(interaction: discord.Interaction[Stemify], form: FilledForm) -> None:
    """Post the mix that a form asks for. Raises `StemifyError`."""
    await acknowledge(interaction, thinking=True, ephemeral=True)
    view = await visible_job(interaction, form.subject)
    await _post_mix(interaction, view, mix_request(form.values, view.job))


async def _post_mix(interaction: discord.Interaction[Stemify], view: JobView, request: MixRequest) -> None:
    """Post a mix, and answer privately with a link to its message."""
    bot = interaction.client
    interaction.client.rules.check_may_mix(interaction, view.job.owner)
    assert interaction.message is not None
    card = job_message_of(interaction, interaction.message.id, view.job.id)
    if await bot.database.is_private(view.job.id):
        card = private(card)
    url = await bot.mixes.post(card, view.job, request, by=owner_of(interaction.user))
    await retry_on_disconnect(lambda: interaction.edit_original_response(content=text.posted_mix(url)))


# Another separation.


async def ask_to_separate_again(interaction: discord.Interaction[Stemify], job_id: str) -> None:
    """Answer with a form. Raises the service's errors."""
    service = interaction.client.service
    view = await service.get(job_id)
    check_owner(interaction, view)
    form = again_form(view.job, service.models())
    await retry_on_disconnect(lambda: interaction.response.send_modal(form))


async def separate_again(interaction: discord.Interaction[Stemify], form: FilledForm) -> None:
    """Start a job with the song of an earlier one and the options of a form. Raises `StemifyError`."""
    await start_again(interaction, form.subject, changed_options(form.values))


async def start_again(interaction: discord.Interaction[Stemify], job_id: str, changes: dict[str, object]) -> None:
    """Start a job with the song of an earlier one. Raises `StemifyError`."""
    bot = interaction.client
    is_private = await bot.database.is_private(job_id)
    message_id = await acknowledge(interaction, thinking=True, ephemeral=is_private)
    job_message = new_job_message(interaction, message_id, is_private=is_private)
    by = owner_of(interaction.user)
    await follow_new_job(bot, job_message, lambda: bot.service.again(job_id, changes, by=by, new_id=job_message.job_id))
