"""Plurals, durations, hints for mistyped words, safe file names and headers made of them."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from urllib.parse import quote


def plural(number: int, noun: str, many: str | None = None) -> str:
    """Return "1 song" or "2 songs"; `many` is the plural of an irregular noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {many or f'{noun}s'}"


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return " Did you mean …?" with the known word that is most like a mistyped one, or nothing.

    A `prefix` that all words have does not make them alike.
    """
    rests = [each.removeprefix(prefix) for each in known]
    closest = difflib.get_close_matches(word.removeprefix(prefix), rests, 1, cutoff=0.7)
    return f" Did you mean {prefix}{closest[0]}?" if closest else ""


_NOT_IN_NAMES = frozenset('<>:"/\\|?*')
_MAX_TITLE_BYTES = 120

CONTENT_TYPES = {
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".png": "image/png",
    ".json": "application/json",
}
"""Content types of result files by extension."""


def printable_line(text: str, longest: int) -> str:
    """Return `text` as one line of at most `longest` characters, without control characters and direction marks."""
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn")
    kept = (each for each in text if each.isspace() or unicodedata.category(each) not in hidden)
    return " ".join("".join(kept).split())[:longest].strip()


def safe_title(text: str | None, fallback: str = "audio") -> str:
    """Return `text` as a file name: at most 120 bytes of UTF-8.

    Control and direction marks, separators, and leading dots and hyphens are removed.
    """
    shown = unicodedata.normalize("NFC", (text or "").encode("utf-8", "ignore").decode("utf-8", "ignore"))
    plain = "".join(each if each.isprintable() and each not in _NOT_IN_NAMES else " " for each in shown)
    shown = " ".join(plain.split()).lstrip("-. ")
    shown = shown.encode()[:_MAX_TITLE_BYTES].decode("utf-8", "ignore").rstrip(". ")
    return shown or fallback


def stem_filename(title: str, stem: str, model: str, extension: str) -> str:
    return f"{safe_title(title)} - {stem} - {model}.{extension}"


def content_type(filename: str) -> str:
    _, dot, extension = filename.rpartition(".")
    return CONTENT_TYPES.get((dot + extension).lower(), "application/octet-stream")


def content_disposition(kind: str, filename: str) -> str:
    """Return the header of RFC 6266: an ASCII name for old clients, the full name (RFC 8187) for others."""
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    plain = "".join(each if each.isprintable() and each not in '"\\%' else "_" for each in plain).strip() or "file"
    whole = quote(filename.encode("utf-8", "replace"), safe="!#$&+-.^_`|~")
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{whole}"


def format_date(at: datetime) -> str:
    """Format a date as 3 March 2026."""
    return f"{at.day} {at:%B %Y}"


def format_duration(seconds: float) -> str:
    """Format seconds as 9:59 or 1:00:02."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
