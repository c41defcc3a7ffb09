"""What the buttons of a control message change at once, in the state and in the player."""

from __future__ import annotations

from bot.voice.control import PRESETS
from bot.voice.state import SessionState
from engine.service.service import VoiceStream

_JUMP_S = 10.0


def apply_press(action: str, state: SessionState, stream: VoiceStream, *, is_muted: bool) -> None:
    """Apply a press; `state.position_s` is where it happened, `is_muted`: the bot is muted by the server."""
    if action in ("start", "back", "forward"):
        moved = {"start": 0.0, "back": state.position_s - _JUMP_S, "forward": state.position_s + _JUMP_S}[action]
        state.position_s = min(max(0.0, moved), stream.duration_s)
        stream.seek(state.position_s)
    elif action == "pause":
        state.is_paused = not state.is_paused
        stream.set_paused(state.is_paused or is_muted)
    elif action == "loop":
        state.press_loop(state.position_s)
        apply_loop(state, stream)
    elif action.startswith("volume"):
        state.change_volume(1 if action == "volume_up" else -1)
        stream.set_volume(state.volume)
    else:
        _change_stems(action, state)
        stream.set_gains(dict.fromkeys(state.muted, 0.0))


def apply_loop(state: SessionState, stream: VoiceStream) -> None:
    if state.loop_start_s is not None and state.loop_end_s is not None:
        stream.set_loop(state.loop_start_s, state.loop_end_s)
    else:
        stream.clear_loop()


def _change_stems(action: str, state: SessionState) -> None:
    if action in PRESETS:
        state.muted = {PRESETS[action][1]}
    elif action == "everything":
        state.muted = set()
    else:
        state.muted ^= {action.removeprefix("stem_")}
