"""Comparisons of models: the form that starts one, and the buttons of its card."""

from __future__ import annotations

import discord

from bot.cards.buttons import JobButtons
from bot.cards.card import WINNERS, ButtonSpec
from bot.client import Stemify
from bot.commands import text
from bot.commands.permissions import check_owner, is_owner
from bot.commands.result import start_again, visible_job
from bot.forms.form import FilledForm
from bot.forms.options_form import compare_form
from bot.messages.messenger import retry_on_disconnect
from bot.messages.responses import acknowledge
from engine.errors import NotFound
from engine.jobs.comparison import Comparison
from engine.jobs.job import JobView


async def ask_for_models(interaction: discord.Interaction[Stemify], job_id: str) -> None:
    """Answer with a form. Raises the service's errors."""
    service = interaction.client.service
    view = await service.get(job_id)
    check_owner(interaction, view)
    form = compare_form(view.job, service.models())
    await retry_on_disconnect(lambda: interaction.response.send_modal(form))


async def compare_models(interaction: discord.Interaction[Stemify], form: FilledForm) -> None:
    """Start a job that compares the models of a form. Raises `StemifyError`."""
    comparison = Comparison.from_user({"models": form.values["models"].splitlines()})
    await start_again(interaction, form.subject, {"comparison": comparison})


async def choose_model(interaction: discord.Interaction[Stemify], job_id: str, label: str) -> None:
    """Answer privately with the names of the compared models. Raises the service's errors."""
    await acknowledge(interaction, thinking=True, ephemeral=True)
    view = await visible_job(interaction, job_id)
    models = _compared_models(view)
    winner = ButtonSpec(WINNERS[label], text.separate_whole(models[label]), "go")
    buttons = JobButtons([winner] if is_owner(interaction, view) else [], job_id)
    answer = text.chosen_model(label, models)
    await retry_on_disconnect(lambda: interaction.edit_original_response(content=answer, view=buttons))


async def separate_with_winner(interaction: discord.Interaction[Stemify], job_id: str, label: str) -> None:
    """Separate the whole song with a model of a comparison. Raises `StemifyError`."""
    view = await interaction.client.service.get(job_id)
    check_owner(interaction, view)
    await start_again(interaction, job_id, {"model": _compared_models(view)[label]})


def _compared_models(view: JobView) -> dict[str, str]:
    """Return the names by label. Raises `NotFound`."""
    if view.job.result is None or view.job.result.comparison is None:
        raise NotFound
    return view.job.result.comparison.models
