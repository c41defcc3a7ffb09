"""What is wrong with the settings, in plain sentences that name the setting and its variable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

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
    "model_type": "must be a section with settings of its own",
    "model_attributes_type": "must be a section with settings of its own",
    "missing": "is missing",
    "extra_forbidden": "is no setting",
}
_SHOWS_ITS_VALUE = ("int", "float", "bool", "greater", "less", "finite", "literal")  # the others may be secrets


def sentences(error: ValidationError) -> Iterator[str]:
    """One for each setting that is wrong: `web.port (STEMIFY_WEB__PORT) must be a whole number, not "many".`"""
    for problem in error.errors(include_url=False):
        names = [str(part).lower() for part in problem["loc"] if not isinstance(part, int)]
        rule = _MUST.get(problem["type"])
        context: dict[str, Any] = problem.get("ctx") or {}
        must = f" {rule.format(**context)}" if rule else f": {problem['msg'].removeprefix('Value error, ')}"
        value = problem["input"]
        shown = problem["type"].startswith(_SHOWS_ITS_VALUE) and isinstance(value, str | int | float)
        not_this = f', not "{str(value)[:40]}"' if shown else ""
        yield f"{'.'.join(names)} (STEMIFY_{'__'.join(names).upper()}){must}{not_this}."
