"""Variables that set settings, such as `STEMIFY_WEB__PORT`: their names, and messages about wrong ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from engine.text import did_you_mean

PREFIX = "STEMIFY_"

_MUST: Mapping[str, str] = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be one of {expected}",
    "string_type": "must be text",
    "path_type": "must be a path",
    "list_type": "must be a list",
    "model_type": "must be a section, not a single value",
    "model_attributes_type": "must be a section, not a single value",
    "missing": "is missing",
    "extra_forbidden": "is not a known setting",
}
_SHOWS_VALUE = ("int", "float", "bool", "greater", "less", "finite", "literal")  # other values may be secrets


def describe_errors(error: ValidationError, known: Sequence[str]) -> Iterator[str]:
    """Yield one line for each invalid setting; `known`: the names of all variables.

    Example: `web.port (STEMIFY_WEB__PORT) must be a whole number, not "many".`
    """
    for problem in error.errors(include_url=False):
        names = [str(part).lower() for part in problem["loc"] if not isinstance(part, int)]
        rule = _MUST.get(problem["type"])
        context: dict[str, Any] = problem.get("ctx") or {}
        must = f" {rule.format(**context)}" if rule else f": {problem['msg'].removeprefix('Value error, ')}"
        value = problem["input"]
        shown = problem["type"].startswith(_SHOWS_VALUE) and isinstance(value, str | int | float)
        not_this = f', not "{str(value)[:40]}"' if shown else ""
        variable = f"STEMIFY_{'__'.join(names).upper()}"
        hint = did_you_mean(variable, known, prefix=PREFIX) if problem["type"] == "extra_forbidden" else ""
        yield f"{'.'.join(names)} ({variable}){must}{not_this}.{hint}"


def variable_names(settings: type[BaseModel]) -> list[str]:
    """Return the names of all variables that are read."""
    names = [f"{PREFIX}CONFIG"]
    for name, field in settings.model_fields.items():
        kind, variable = field.annotation, f"{PREFIX}{name.upper()}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += [f"{variable}__{setting.upper()}" for setting in kind.model_fields]
        else:
            names.append(variable)
    return names


def unknown_variables(settings: type[BaseModel], names: Iterable[str]) -> list[str]:
    """Return a sentence for each of `names` that looks like a setting and is none."""
    known = variable_names(settings)
    sections = {f"{PREFIX}{name.upper()}" for name in settings.model_fields}  # a whole section as JSON
    return [
        f"{name} is not a setting and has no effect.{did_you_mean(name.upper(), known, prefix=PREFIX)}"
        for name in sorted(names)
        if name.upper().startswith(PREFIX) and name.upper() not in sections.union(known)
    ]
