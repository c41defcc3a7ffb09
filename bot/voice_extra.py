"""The extra `voice`: the packages that discord.py needs for voice channels."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

NOT_INSTALLED = (
    "This bot cannot play in voice channels: its extra `voice` is not installed. Ask its operator to run "
    "`.venv/bin/pip install -c constraints.txt '.[voice]'` and to restart it."
)


@cache
def is_installed() -> bool:
    return all(find_spec(name) is not None for name in ("nacl", "davey"))
