"""Discord's limits on application commands and autocomplete choices."""

from __future__ import annotations

import re
from typing import Any

from tests.fakes.discord.forms import Form, bad_form
from tests.fakes.discord.state import Json

CHAT_INPUT, USER, MESSAGE = 1, 2, 3
MOST_OF_KIND = {CHAT_INPUT: 100, USER: 15, MESSAGE: 15}
SUBCOMMAND, GROUP = 1, 2
NAME = re.compile(r"[-_'\w]{1,32}")
MOST_CHARACTERS = 8000
CALLBACKS = {2: (4, 5, 9), 3: (4, 5, 6, 7, 9), 4: (8,), 5: (4, 5, 6, 7)}
"""Callback types by interaction type."""


def check_callback(interaction_type: int, callback_type: int) -> None:
    """Raise `Refused` if a limit is broken."""
    if callback_type not in CALLBACKS.get(interaction_type, ()):
        raise bad_form("type", f"interaction type {interaction_type} cannot be answered with {callback_type}")


def check_commands(commands: list[Json]) -> None:
    """Raise `Refused` if a limit is broken."""
    form = Form()
    kinds = [command.get("type", CHAT_INPUT) for command in commands]
    for kind, most in MOST_OF_KIND.items():
        if kinds.count(kind) > most:
            form.fail("commands", "APPLICATION_COMMAND_TOO_MANY", f"At most {most} of type {kind}.")
    form.unique("commands", list(zip(kinds, [command.get("name") for command in commands], strict=True)))
    for at, (kind, command) in enumerate(zip(kinds, commands, strict=True)):
        path = str(at)
        form.choice(f"{path}.type", kind, MOST_OF_KIND)
        if kind == CHAT_INPUT:
            _check_named(form, path, command)
            _check_options(form, path, command.get("options") or [], depth=0)
            if _characters(command) > MOST_CHARACTERS:
                form.fail(path, "APPLICATION_COMMAND_TOO_LARGE", f"Must be {MOST_CHARACTERS} or fewer in length.")
        else:
            form.length(f"{path}.name", command.get("name"), 1, 32)
            form.length(f"{path}.description", command.get("description") or "", 0, 0)
            form.count(f"{path}.options", command.get("options") or [], 0, 0)
        for place, allowed in (("integration_types", {0, 1}), ("contexts", {0, 1, 2})):
            for value in command.get(place) or []:
                form.choice(f"{path}.{place}", value, allowed)
        needed = command.get("default_member_permissions")
        if needed is not None and not str(needed).isdecimal():
            form.fail(f"{path}.default_member_permissions", "BASE_TYPE_INVALID", "Must be a string of digits.")
    form.done()


def check_choices(choices: list[Json]) -> None:
    """Raise `Refused` if a limit is broken."""
    form = Form()
    _check_choices(form, "data.choices", choices)
    form.done()


def _check_named(form: Form, path: str, thing: Json) -> None:
    name = thing.get("name")
    form.length(f"{path}.name", name, 1, 32)
    if not NAME.fullmatch(str(name)) or str(name) != str(name).lower():
        form.fail(f"{path}.name", "APPLICATION_COMMAND_INVALID_NAME", "Command name is invalid.")
    form.length(f"{path}.description", thing.get("description"), 1, 100)


def _check_options(form: Form, path: str, options: list[Json], *, depth: int) -> None:
    form.count(f"{path}.options", options, 0, 25)
    form.unique(f"{path}.options", [option.get("name") for option in options])
    needed = [bool(option.get("required")) for option in options]
    if needed != sorted(needed, reverse=True):
        form.fail(f"{path}.options", "APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID", "Required options come first.")
    for at, option in enumerate(options):
        here = f"{path}.options.{at}"
        _check_named(form, here, option)
        form.choice(f"{here}.type", option.get("type"), range(1, 12))
        if option.get("type") in (SUBCOMMAND, GROUP):
            if depth > 1 or (depth == 1 and option["type"] == GROUP):
                form.fail(f"{here}.type", "APPLICATION_COMMAND_OPTIONS_NESTING", "Nested too deeply.")
            _check_options(form, here, option.get("options") or [], depth=depth + 1)
        if choices := option.get("choices"):
            _check_choices(form, f"{here}.choices", choices)
            if option.get("autocomplete"):
                form.fail(here, "APPLICATION_COMMAND_AUTOCOMPLETE_CHOICES", "Choices exclude autocomplete.")


def _check_choices(form: Form, path: str, choices: list[Json]) -> None:
    form.count(path, choices, 0, 25)
    form.unique(path, [choice.get("name") for choice in choices])
    for at, choice in enumerate(choices):
        form.length(f"{path}.{at}.name", choice.get("name"), 1, 100)
        if isinstance(choice.get("value"), str):
            form.length(f"{path}.{at}.value", choice["value"], 1, 100)


def _characters(thing: Any) -> int:
    """Return the characters that Discord counts: names, descriptions and values."""
    if isinstance(thing, dict):
        own = sum(len(str(thing[key])) for key in ("name", "description", "value") if isinstance(thing.get(key), str))
        return own + sum(_characters(value) for value in thing.values())
    return sum(_characters(value) for value in thing) if isinstance(thing, list) else 0
