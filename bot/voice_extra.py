"""The extra `voice`: the packages that discord.py needs for voice channels."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def is_installed() -> bool:
    return all(find_spec(name) is not None for name in ("nacl", "davey"))
