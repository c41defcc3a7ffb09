"""Plurals and safe file names."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote


def plural(number: int, what: str) -> str:
    """ "1 song", "2 songs" """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


_NOT_IN_NAMES = frozenset('<>:"/\\|?*')
_MAX_TITLE_BYTES = 120

CONTENT_TYPES = {
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".png": "image/png",
    ".json": "application/json",
}
"""Of the files of a result, by the end of their name."""


def safe_title(text: str | None, fallback: str = "audio") -> str:
    """`text` without what is not allowed or misleads in a file name (control and direction marks, separators,
    leading dots and hyphens), at most 120 bytes of UTF-8."""
    shown = unicodedata.normalize("NFC", (text or "").encode("utf-8", "ignore").decode("utf-8", "ignore"))
    plain = "".join(each if each.isprintable() and each not in _NOT_IN_NAMES else " " for each in shown)
    shown = " ".join(plain.split()).lstrip("-. ")
    shown = shown.encode()[:_MAX_TITLE_BYTES].decode("utf-8", "ignore").rstrip(". ")
    return shown or fallback


def stem_filename(title: str, stem: str, model: str, extension: str) -> str:
    return f"{safe_title(title)} - {stem} - {model}.{extension}"


def content_type(filename: str) -> str:
    _, dot, end = filename.rpartition(".")
    return CONTENT_TYPES.get((dot + end).lower(), "application/octet-stream")


def content_disposition(kind: str, filename: str) -> str:
    """RFC 6266: the name in plain ASCII for old clients, and whole (RFC 8187) for the others."""
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    plain = "".join(each if each.isprintable() and each not in '"\\%' else "_" for each in plain).strip() or "file"
    whole = quote(filename.encode("utf-8", "replace"), safe="!#$&+-.^_`|~")
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{whole}"
