"""Form errors in Discord's format: code 50035 with a tree of errors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.fakes.discord.state import Json


class RequestRejected(Exception):
    """Raised for a request that Discord refuses; becomes the error response."""

    def __init__(self, status: int, code: int, message: str, errors: Json | None = None) -> None:
        super().__init__(f"{message}: {errors}" if errors else message)
        self.status, self.code, self.message, self.errors = status, code, message, errors


class Form:
    """Collects the errors of one form, each at its path."""

    def __init__(self) -> None:
        self.errors: Json = {}

    def fail(self, path: str, code: str, message: str) -> None:
        place = self.errors
        for key in path.split("."):
            place = place.setdefault(key, {})
        place.setdefault("_errors", []).append({"code": code, "message": message})

    def length(self, path: str, value: Any, least: int, most: int) -> None:
        if not isinstance(value, str):
            self.fail(path, "STRING_TYPE_CONVERT", "Must be a string.")
        elif len(value) > most:
            self.fail(path, "BASE_TYPE_MAX_LENGTH", f"Must be {most} or fewer in length.")
        elif len(value) < least:
            self.fail(path, "BASE_TYPE_MIN_LENGTH", f"Must be {least} or more in length.")

    def count(self, path: str, values: Collection[Any], least: int, most: int) -> None:
        if not least <= len(values) <= most:
            message = f"Must be between {least} and {most} in length."
            self.fail(path, "BASE_TYPE_BAD_LENGTH", message)

    def choice(self, path: str, value: Any, allowed: Collection[Any]) -> None:
        if value not in allowed:
            self.fail(path, "BASE_TYPE_CHOICES", f"Value {value!r} must be one of {sorted(allowed, key=str)}.")

    def unique(self, path: str, values: list[Any]) -> None:
        if len(set(values)) < len(values):
            self.fail(path, "DUPLICATE", f"Must be unique: {values}.")

    def done(self) -> None:
        """Raise `Refused` if there is an error."""
        if self.errors:
            raise RequestRejected(400, 50035, "Invalid Form Body", self.errors)


def bad_form(path: str, message: str) -> RequestRejected:
    form = Form()
    form.fail(path, "BASE_TYPE_INVALID", message)
    return RequestRejected(400, 50035, "Invalid Form Body", form.errors)
