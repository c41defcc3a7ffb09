"""Names of mixes and versions: "Song (no drums, −2)"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from engine.text import format_duration, safe_title

_MOST_LEVELS = 2
_MINUS = "\N{MINUS SIGN}"


def mix_name(
    title: str,
    gains: Mapping[str, float],
    pans: Mapping[str, float] | None = None,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    key: float = 0.0,
    tempo: float = 1.0,
) -> str:
    """Return the name of a mix; `gains` of all stems of the job."""
    parts = _gain_parts(gains)
    if pans:
        parts.append("panned")
    if start_s or end_s is not None:
        end = "end" if end_s is None else format_duration(end_s)
        parts.append(f"{format_duration(start_s or 0.0)}–{end}")
    parts += change_parts(key, tempo)
    return f"{safe_title(title)} ({', '.join(parts or ['mix'])})"


def mix_filename(name: str, extension: str) -> str:
    return f"{name.replace(':', '.')}.{extension}"


def version_name(title: str, changes: Sequence[str]) -> str:
    """Return the name of a version; `changes`: see `version_parts`."""
    return f"{safe_title(title)} ({', '.join(changes)})"


def version_filename(title: str, stem: str, changes: Sequence[str], extension: str) -> str:
    return f"{safe_title(title)} - {stem} ({', '.join(changes)}).{extension}"


def version_parts(key: float, tempo: float, *, is_preview: bool) -> list[str]:
    return [*change_parts(key, tempo), *(["preview"] if is_preview else [])] or ["original"]


def change_parts(key: float, tempo: float) -> list[str]:
    """Return the key as "−2" and the tempo as "90 %", each only if it differs from the song's."""
    parts = [] if key == 0 else [_signed(key)]
    return parts if tempo == 1 else [*parts, f"{100 * tempo:.4g} %"]


def _gain_parts(gains: Mapping[str, float]) -> list[str]:
    silent = [stem for stem, gain in gains.items() if gain == 0]
    audible = {stem: gain for stem, gain in gains.items() if gain > 0}
    levels = [f"{stem} {_signed(20 * math.log10(gain), 1)} dB" for stem, gain in audible.items() if gain != 1]
    if len(levels) > _MOST_LEVELS:
        return ["custom mix"]
    if silent == ["vocals"]:
        return ["karaoke", *levels]
    if len(silent) > len(audible) or (silent and len(audible) == 1):
        return [f"only {' and '.join(audible)}", *levels]
    return [*(f"no {stem}" for stem in silent), *levels]


def _signed(value: float, digits: int = 2) -> str:
    text = f"{abs(value):.{digits}f}".rstrip("0").rstrip(".")
    return f"{_MINUS if value < 0 else '+'}{text}"
