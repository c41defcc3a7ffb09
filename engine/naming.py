"""File names of stems: track, stem and model, safe on every file system and in every header."""

from __future__ import annotations

import unicodedata

_NOT_IN_NAMES = frozenset('<>:"/\\|?*')
_MAX_TITLE_BYTES = 120


def safe_title(text: str | None, fallback: str = "audio") -> str:
    """`text` without what is not allowed or misleads in a file name (control and direction marks, separators,
    leading dots), at most 120 bytes of UTF-8."""
    shown = unicodedata.normalize("NFC", (text or "").encode("utf-8", "ignore").decode("utf-8", "ignore"))
    plain = "".join(each if each.isprintable() and each not in _NOT_IN_NAMES else " " for each in shown)
    shown = " ".join(plain.split()).strip(". ")
    shown = shown.encode()[:_MAX_TITLE_BYTES].decode("utf-8", "ignore").strip(". ")
    return shown or fallback


def stem_filename(title: str, stem: str, model: str, extension: str) -> str:
    return f"{safe_title(title)} - {stem} - {model}.{extension}"
