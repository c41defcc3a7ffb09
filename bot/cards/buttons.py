"""Buttons that work after a restart, because their state is in their `custom_id`, and the layout of cards.

Views have dynamic items only and no timeout: when a view that also has a plain item stops, discord.py forgets the
*class* of the dynamic item.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar, Self, get_args

import discord

from bot.cards import text
from bot.cards.card import PICTURE, Action, ButtonSpec, Card

STYLES = {
    "plain": discord.ButtonStyle.secondary,
    "go": discord.ButtonStyle.primary,
    "danger": discord.ButtonStyle.danger,
}


_OLD_ACTIONS = {"forever": "confirm_delete"}
"""Names in the buttons of older messages."""

JOB_ACTIONS = (*get_args(Action), "confirm_delete", "confirm_delete_all", *_OLD_ACTIONS)


class JobButton(
    discord.ui.DynamicItem[discord.ui.Button[Any]],
    template=rf"stemify:(?P<action>{'|'.join(JOB_ACTIONS)}):(?P<job>[0-9a-f-]{{36}})",
):
    """A button that acts on one job."""

    def __init__(self, action: str, job_id: str, label: str, style: discord.ButtonStyle) -> None:
        super().__init__(discord.ui.Button(label=label, style=style, custom_id=f"stemify:{action}:{job_id}"))
        self.action = action
        self.job_id = job_id

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        assert isinstance(item, discord.ui.Button)
        action = _OLD_ACTIONS.get(match["action"], match["action"])
        return cls(action, match["job"], item.label or "", item.style)

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        interaction.client.dispatch("job_button", interaction, self.action, self.job_id)


class JobButtons(discord.ui.View):
    """Buttons of one job under an ordinary message."""

    def __init__(self, specs: Iterable[ButtonSpec], job_id: str) -> None:
        super().__init__(timeout=None)
        for spec in specs:
            self.add_item(button(spec, job_id))


def button(spec: ButtonSpec, job_id: str) -> JobButton:
    return JobButton(spec.action, job_id, spec.label, STYLES[spec.style])


class ConfirmDelete(discord.ui.View):
    """The confirmation before a job, or with `confirm_delete_all` a batch, is deleted."""

    label: ClassVar[str] = text.DELETE_PERMANENTLY

    def __init__(self, job_id: str, action: str = "confirm_delete") -> None:
        super().__init__(timeout=None)
        self.add_item(JobButton(action, job_id, self.label, discord.ButtonStyle.danger))


class DeleteEverythingButton(
    discord.ui.DynamicItem[discord.ui.Button[Any]], template=r"stemify:everything:(?P<user>[0-9]{1,20})"
):
    """A button that deletes all jobs of one user."""

    def __init__(self, user_id: int) -> None:
        super().__init__(
            discord.ui.Button(
                label=text.DELETE_EVERYTHING,
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
    """The confirmation before all jobs are deleted."""

    def __init__(self, user_id: int) -> None:
        super().__init__(timeout=None)
        self.add_item(DeleteEverythingButton(user_id))


def layout(card: Card, job_id: str) -> discord.ui.LayoutView:
    """Return the card as message components."""
    view = discord.ui.LayoutView(timeout=None)
    container: discord.ui.Container[Any] = discord.ui.Container(accent_colour=card.accent)
    container.add_item(discord.ui.TextDisplay("\n".join(part for part in (f"### {card.heading}", card.body) if part)))
    if card.picture:
        picture = discord.MediaGalleryItem(f"attachment://{PICTURE}", description=card.picture)
        container.add_item(discord.ui.MediaGallery(picture))
    below = [card.below, *(f"-# {line}" for line in card.small.splitlines())]
    if any(below):
        container.add_item(discord.ui.TextDisplay("\n".join(part for part in below if part)))
    items = [discord.ui.Button[Any](label=label, url=url) for label, url in card.links]
    for row in (
        [button(spec, job_id) for spec in card.mixes],
        [*items, *(button(spec, job_id) for spec in card.buttons)],
    ):
        for start in range(0, len(row), 5):
            container.add_item(discord.ui.ActionRow(*row[start : start + 5]))
    if card.until:
        container.add_item(discord.ui.TextDisplay(f"-# {card.until}"))
    view.add_item(container)
    return view
