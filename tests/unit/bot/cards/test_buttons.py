"""Buttons in messages of earlier versions."""

from __future__ import annotations

import re
from typing import Any, cast

import discord
import pytest

from bot.cards.buttons import JobButton

JOB_ID = "0193c5d8-0000-7000-8000-000000000000"


@pytest.mark.parametrize("action", ["forever", "confirm_delete"])
async def test_open_delete_confirmation_survives_an_upgrade(action: str) -> None:
    item: discord.ui.Button[Any] = discord.ui.Button(label="Delete permanently", custom_id=f"stemify:{action}:{JOB_ID}")
    assert item.custom_id is not None
    match = re.fullmatch(JobButton.__discord_ui_compiled_template__, item.custom_id)
    assert match is not None
    button = await JobButton.from_custom_id(cast(discord.Interaction[Any], None), item, match)
    assert (button.action, button.job_id) == ("confirm_delete", JOB_ID)
