"""The control message of a session: text and buttons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

import discord

from bot.cards.text import KARAOKE, NO_BASS, NO_DRUMS
from bot.text import clean, escape
from bot.voice import text
from bot.voice.state import SessionState

PRESETS = {
    "karaoke": (KARAOKE, "vocals"), "no_drums": (NO_DRUMS, "drums"), "no_bass": (NO_BASS, "bass"),
}  # fmt: skip
"""Label of each preset, and the stem that it leaves out."""
_COLOUR = 0x5865F2


class VoiceButton(
    discord.ui.DynamicItem[discord.ui.Button[Any]],
    template=r"stemify:voice:(?P<action>[a-z_]{1,30})",
):
    """A button of a control message."""

    def __init__(self, action: str, label: str, *, is_on: bool = False) -> None:
        style = discord.ButtonStyle.primary if is_on else discord.ButtonStyle.secondary
        super().__init__(discord.ui.Button(label=label, style=style, custom_id=f"stemify:voice:{action}"))
        self.action = action

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        return cls(match["action"], "")

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        interaction.client.dispatch("voice_button", interaction, self.action)


def control_text(state: SessionState, duration_s: float, note: str) -> str:
    lines = [
        f"### {escape(state.songs[0].title)}",
        text.position(min(state.position_s, duration_s), duration_s, is_paused=state.is_paused),
        text.sound(state.muted, volume=state.volume, key=state.key, tempo=state.tempo),
        text.loop(state.loop_start_s, state.loop_end_s),
        text.upcoming([song.title for song in state.songs[1:]]),
        f"-# {note}" if note else "",
    ]
    return "\n".join(line for line in lines if line)


def control_view(
    state: SessionState, stems: Sequence[str], duration_s: float, note: str = "", *, stage_url: str | None = None
) -> discord.ui.LayoutView:
    """Return the control message, with a link to the stage if there is one."""
    begun, is_repeating = state.loop_start_s is not None, state.loop_end_s is not None
    loop = text.STOP_LOOP if is_repeating else text.LOOP_TO if begun else text.LOOP_FROM
    presets = {action: each for action, each in PRESETS.items() if each[1] in stems}
    rows: list[list[discord.ui.Item[Any]]] = [
        [
            VoiceButton("start", text.START),
            VoiceButton("back", text.BACK),
            VoiceButton("pause", text.PAUSE, is_on=state.is_paused),
            VoiceButton("forward", text.FORWARD),
            VoiceButton("stop", text.STOP),
        ],
        [VoiceButton(f"stem_{stem}", stem.capitalize(), is_on=stem not in state.muted) for stem in stems],
        [
            *(VoiceButton(action, label, is_on=state.muted == {stem}) for action, (label, stem) in presets.items()),
            VoiceButton("everything", text.EVERYTHING, is_on=not state.muted),
        ],
        [
            VoiceButton("volume_down", text.QUIETER),
            VoiceButton("volume_up", text.LOUDER),
            VoiceButton("loop", loop, is_on=begun),
            *([VoiceButton("next", text.NEXT)] if len(state.songs) > 1 else []),
            *([discord.ui.Button(label=text.STAGE, url=stage_url)] if stage_url is not None else []),
        ],
        [
            VoiceButton("key_down", text.LOWER),
            VoiceButton("key_up", text.HIGHER),
            VoiceButton("tempo_down", text.SLOWER),
            VoiceButton("tempo_up", text.FASTER),
        ],
    ]
    container: discord.ui.Container[Any] = discord.ui.Container(accent_colour=_COLOUR)
    container.add_item(discord.ui.TextDisplay(control_text(state, duration_s, note)))
    for row in rows:
        for start in range(0, len(row), 5):
            container.add_item(discord.ui.ActionRow(*row[start : start + 5]))
    view = discord.ui.LayoutView(timeout=None)
    view.add_item(container)
    return view


def closed_view(words: str) -> discord.ui.LayoutView:
    """Return the control message of a session that has ended."""
    view = discord.ui.LayoutView(timeout=None)
    view.add_item(discord.ui.TextDisplay(clean(words, 1500)))
    return view
