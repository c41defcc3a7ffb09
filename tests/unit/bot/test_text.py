"""Texts from names that users choose, and rounded times."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import text as bot_text


@pytest.mark.parametrize("link", ["discord.gg/abc", "DISCORD.GG/abc", "discord.com/invite/abc", "dsc.gg/abc"])
def test_invite_in_title_is_broken(link: str) -> None:
    assert link not in bot_text.escape(f"join {link}") and link not in bot_text.sanitize(f"There is no model {link!r}.")
    assert bot_text.escape("AC/DC") == r"AC\/DC", "Discord shows an escaped slash as a slash"


@given(st.text(max_size=300))
def test_every_mark_in_name_is_escaped(name: str) -> None:
    shown = bot_text.escape(name)
    assert not set(re.sub(r"\\.", "", shown)) & set("\\*_~|`<>[]()#@:/\n\r\0\u202e\u200b")
    assert len(bot_text.clean(name)) <= 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "a few seconds"), (12, "about 10 s"), (50, "about 50 s"), (58, "about 1 min"), (400, "about 7 min"),
     (7000, "about 2 h")],
)  # fmt: skip
def test_eta_is_rounded(seconds: float, text: str) -> None:
    assert bot_text.format_eta(seconds) == text
