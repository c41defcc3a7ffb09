"""Buttons that work after a restart too: all they need to know is in their `custom_id`. Cards become layouts here.

Only dynamic items, no timeouts: discord.py forgets a dynamic item's *class* when a view that mixes it with a plain
item stops.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

import discord

from bot.cards import PICTURE, ButtonSpec, Card

STYLES = {
    "plain": discord.ButtonStyle.secondary,
    "go": discord.ButtonStyle.primary,
    "danger": discord.ButtonStyle.danger,
}


class JobButton(
    discord.ui.DynamicItem[discord.ui.Button[Any]],
    template=r"stemify:(?P<action>cancel|retry|keep|delete|refresh|forever):(?P<job>[0-9a-f-]{36})",
):
    """Something to do with one job."""

    def __init__(self, action: str, job_id: str, label: str, style: discord.ButtonStyle) -> None:
        super().__init__(discord.ui.Button(label=label, style=style, custom_id=f"stemify:{action}:{job_id}"))
        self.action = action
        self.job_id = job_id

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        assert isinstance(item, discord.ui.Button)
        return cls(match["action"], match["job"], item.label or "", item.style)

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        interaction.client.dispatch("job_button", interaction, self.action, self.job_id)


def button(press: ButtonSpec, job_id: str) -> JobButton:
    return JobButton(press.action, job_id, press.label, STYLES[press.style])


class ConfirmDelete(discord.ui.View):
    """Under the question whether the stems shall really go."""

    label: ClassVar[str] = "Delete for good"

    def __init__(self, job_id: str) -> None:
        super().__init__(timeout=None)
        self.add_item(JobButton("forever", job_id, self.label, discord.ButtonStyle.danger))


class DeleteEverythingButton(
    discord.ui.DynamicItem[discord.ui.Button[Any]], template=r"stemify:everything:(?P<user>[0-9]{1,20})"
):
    """Deletes all that one person has."""

    def __init__(self, user_id: int) -> None:
        super().__init__(
            discord.ui.Button(
                label="Delete everything for good",
                style=discord.ButtonStyle.danger,
                custom_id=f"stemify:everything:{user_id}",
            )
        )
        self.user_id = user_id

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        return cls(int(match["user"]))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        interaction.client.dispatch("delete_everything_button", interaction, self.user_id)


class ConfirmDeleteEverything(discord.ui.View):
    """Under the question whether everything shall really go."""

    def __init__(self, user_id: int) -> None:
        super().__init__(timeout=None)
        self.add_item(DeleteEverythingButton(user_id))


def layout(card: Card, job_id: str) -> discord.ui.LayoutView:
    """The card as a message of components."""
    view = discord.ui.LayoutView(timeout=None)
    box: discord.ui.Container[Any] = discord.ui.Container(accent_colour=card.accent)
    box.add_item(discord.ui.TextDisplay("\n".join(part for part in (f"### {card.heading}", card.body) if part)))
    if card.picture:
        box.add_item(discord.ui.MediaGallery(discord.MediaGalleryItem(f"attachment://{PICTURE}")))
    below = [card.below, *(f"-# {line}" for line in card.small.splitlines())]
    if any(below):
        box.add_item(discord.ui.TextDisplay("\n".join(part for part in below if part)))
    for start in range(0, len(card.links), 5):
        links: discord.ui.ActionRow[Any] = discord.ui.ActionRow()
        for label, url in card.links[start : start + 5]:
            links.add_item(discord.ui.Button(label=label, url=url))
        box.add_item(links)
    if card.presses:
        presses: discord.ui.ActionRow[Any] = discord.ui.ActionRow()
        for press in card.presses:
            presses.add_item(button(press, job_id))
        box.add_item(presses)
    view.add_item(box)
    return view
