"""Forms (Discord's modals) that work after a restart, because their state is in their `custom_id`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import discord

FormName = Literal["mix", "again", "compare", "menu", "offer"]
_CUSTOM_ID = re.compile(rf"stemify:form:({'|'.join(get_args(FormName))}):([0-9a-f-]{{36}}|\d+:\d+)")


class FilledForm(NamedTuple):
    name: FormName
    subject: str  # a job's id, or `message_subject`
    values: Mapping[str, str]  # "" for an empty field; several choices are on lines

    @property
    def message(self) -> tuple[int, int]:
        """The channel and the message of `message_subject`."""
        channel_id, _, message_id = self.subject.partition(":")
        return int(channel_id), int(message_id)


def message_subject(channel_id: int, message_id: int) -> str:
    return f"{channel_id}:{message_id}"


def form(name: FormName, subject: str, title: str, *fields: discord.ui.Label[Any]) -> discord.ui.Modal:
    modal = discord.ui.Modal(title=title, custom_id=f"stemify:form:{name}:{subject}")
    for field in fields:
        modal.add_item(field)
    modal.stop()  # discord.py would keep it in memory to call it; `filled_form` needs no such memory
    return modal


def choice(
    name: str, label: str, options: list[discord.SelectOption], description: str = "", *, least: int = 1, most: int = 1
) -> discord.ui.Label[Any]:
    select: discord.ui.Select[Any] = discord.ui.Select(
        custom_id=name, options=options, min_values=least, max_values=most
    )
    return discord.ui.Label(text=label, description=description or None, component=select)


def line(name: str, label: str, description: str, placeholder: str, *, length: int = 100) -> discord.ui.Label[Any]:
    """Return an optional line of text."""
    field: discord.ui.TextInput[Any] = discord.ui.TextInput(
        custom_id=name, placeholder=placeholder, required=False, max_length=length
    )
    return discord.ui.Label(text=label, description=description, component=field)


def filled_form(interaction: discord.Interaction[Any]) -> FilledForm | None:
    """Return the form that was submitted, or None if the interaction is something else."""
    if interaction.type is not discord.InteractionType.modal_submit:
        return None
    data: Mapping[str, Any] = dict(interaction.data or {})
    match = _CUSTOM_ID.fullmatch(str(data.get("custom_id")))
    if match is None:
        return None
    name: Any = match[1]
    return FilledForm(name, match[2], dict(_values(data)))


def _values(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for label in data.get("components", []):
        field = label.get("component", {})
        chosen = field.get("values") or [field.get("value") or ""]
        yield str(field.get("custom_id")), "\n".join(map(str, chosen)).strip()
