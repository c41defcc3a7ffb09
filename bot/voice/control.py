"""The control message of a session: text and buttons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

import discord

from bot.text import clean, escape
from bot.voice.state import SessionState
from engine.text import format_duration

PRESETS = {"karaoke": ("Karaoke", "vocals"), "no_drums": ("No drums", "drums"), "no_bass": ("No bass", "bass")}
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
    song, position_s = state.songs[0], min(state.position_s, duration_s)
    sign = "⏸" if state.is_paused else "▶"
    line = f"{sign} {format_duration(position_s)} of {format_duration(duration_s)}"
    line += f" · {format_duration(duration_s - position_s)} left"
    sound = [f"without {stem}" for stem in sorted(state.muted)]
    sound += [f"volume {state.volume:.0%}"] if state.volume != 1 else []
    sound += [f"key {state.key:+d}"] if state.key else []
    sound += [f"tempo {state.tempo:.0%}"] if state.tempo != 1 else []
    lines = [f"### {escape(song.title)}", line, " · ".join(sound), _loop_text(state)]
    if len(state.songs) > 1:
        more = f", then {len(state.songs) - 2} more" if len(state.songs) > 2 else ""
        lines.append(f"-# Next: {escape(state.songs[1].title)}{more}")
    return "\n".join(line for line in [*lines, f"-# {note}" if note else ""] if line)


def _loop_text(state: SessionState) -> str:
    if state.loop_start_s is None:
        return ""
    if state.loop_end_s is None:
        return f"The loop begins at {format_duration(state.loop_start_s)}"
    return f"Repeating {format_duration(state.loop_start_s)} to {format_duration(state.loop_end_s)}"


def control_view(state: SessionState, stems: Sequence[str], duration_s: float, note: str = "") -> discord.ui.LayoutView:
    """Return the control message."""
    begun, is_repeating = state.loop_start_s is not None, state.loop_end_s is not None
    loop = "Stop loop" if is_repeating else "Loop to here" if begun else "Loop from here"
    presets = {action: each for action, each in PRESETS.items() if each[1] in stems}
    rows = [
        [
            VoiceButton("start", "⏮"),
            VoiceButton("back", "−10 s"),
            VoiceButton("pause", "⏯", is_on=state.is_paused),
            VoiceButton("forward", "+10 s"),
            VoiceButton("stop", "Stop"),
        ],
        [VoiceButton(f"stem_{stem}", stem.capitalize(), is_on=stem not in state.muted) for stem in stems],
        [
            *(VoiceButton(action, label, is_on=state.muted == {stem}) for action, (label, stem) in presets.items()),
            VoiceButton("everything", "Everything", is_on=not state.muted),
        ],
        [
            VoiceButton("volume_down", "Volume −"),
            VoiceButton("volume_up", "Volume +"),
            VoiceButton("loop", loop, is_on=begun),
            *([VoiceButton("next", "Next song")] if len(state.songs) > 1 else []),
        ],
        [
            VoiceButton("key_down", "Key −"),
            VoiceButton("key_up", "Key +"),
            VoiceButton("tempo_down", "Tempo −"),
            VoiceButton("tempo_up", "Tempo +"),
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


def closed_view(text: str) -> discord.ui.LayoutView:
    """Return the control message of a session that has ended."""
    view = discord.ui.LayoutView(timeout=None)
    view.add_item(discord.ui.TextDisplay(clean(text, 1500)))
    return view
