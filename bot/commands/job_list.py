"""The pages of `/job list`, and the choices for the option `job`."""

from __future__ import annotations

import re
from typing import Any, Self

import discord
from discord import app_commands

from bot.cards.job_lines import job_labels, job_line, job_list
from bot.client import Stemify
from bot.commands import text
from bot.commands.stemify import owner_of
from bot.messages.messenger import retry_on_disconnect
from bot.messages.responses import acknowledge, run_guarded

PAGE_LENGTH = 10  # lines fit into a message, whatever the titles are
MAX_CHOICES = 25  # Discord's limit


async def show_job_list(interaction: discord.Interaction[Stemify], page: int) -> None:
    """Show one page of the user's jobs as the private answer."""
    await acknowledge(interaction, ephemeral=True)
    bot, start = interaction.client, page * PAGE_LENGTH
    views = await bot.service.list(owner_of(interaction.user), limit=PAGE_LENGTH + 1, offset=start)
    shown = views[:PAGE_LENGTH]
    job_messages = await bot.database.job_messages(view.job.id for view in shown)
    urls = {job_id: job_message.url for job_id, job_message in job_messages.items()}
    view = discord.ui.LayoutView(timeout=None)
    view.add_item(discord.ui.TextDisplay(job_list([job_line(each, urls.get(each.job.id)) for each in shown])))
    buttons = [JobListButton(page - 1, text.NEWER)] if page else []
    buttons += [JobListButton(page + 1, text.OLDER)] if len(views) > PAGE_LENGTH else []
    if buttons:
        view.add_item(discord.ui.ActionRow(*buttons))
    await retry_on_disconnect(lambda: interaction.edit_original_response(view=view))


class JobListButton(discord.ui.DynamicItem[discord.ui.Button[Any]], template=r"stemify:list:(?P<page>\d{1,4})"):
    """A button that shows another page of `/job list`."""

    def __init__(self, page: int, label: str) -> None:
        super().__init__(discord.ui.Button(label=label, custom_id=f"stemify:list:{page}"))
        self.page = page

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        assert isinstance(item, discord.ui.Button)
        return cls(int(match["page"]), item.label or "")

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        await run_guarded(interaction, show_job_list(interaction, self.page))


async def job_choices(
    interaction: discord.Interaction[Stemify], typed: str, *, active_only: bool = False
) -> list[app_commands.Choice[str]]:
    """Return the newest of the user's jobs with `typed` in title or artist."""
    service, owner = interaction.client.service, owner_of(interaction.user)
    if active_only or not typed.strip():
        views = await service.list(owner, limit=MAX_CHOICES, active_only=active_only)
    else:
        views = await service.find(owner, typed.strip(), limit=MAX_CHOICES)
    labels = job_labels(views)
    if active_only:
        labels = [(label, job_id) for label, job_id in labels if typed.casefold() in label.casefold()]
    return [app_commands.Choice(name=label, value=job_id) for label, job_id in labels]
