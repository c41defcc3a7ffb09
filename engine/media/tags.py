"""Tags and cover art: read from the song, carried to its stems."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import av
from av.audio.stream import AudioStream

from engine.media.charset import repaired

KEPT_TAGS = (
    "title",
    "artist",
    "album",
    "album_artist",
    "composer",
    "genre",
    "date",
    "track",
    "disc",
    "copyright",
)
"""The tags that make sense on a stem."""

_ALIASES = {
    "albumartist": "album_artist",
    "tracknumber": "track",
    "discnumber": "disc",
    "year": "date",
    "author": "artist",
}
_LONGEST_TAG = 300
_MAY_MISSTATE_ENCODING = ("mp3", "aac", "aiff", "wav")  # containers of ID3 tags and other 8-bit text
_LARGEST_COVER_BYTES = 4 * 1024 * 1024


def read_tags(container: av.container.InputContainer, stream: AudioStream) -> dict[str, str]:
    """The carried tags of a file, cleaned. Ogg keeps them on the stream, the others on the container."""
    found: dict[str, str] = {}
    for source in (stream.metadata, container.metadata):
        for key, value in source.items():
            name = _ALIASES.get(key.lower(), key.lower())
            text = clean(repaired(value) if container.format.name in _MAY_MISSTATE_ENCODING else value)
            if name in KEPT_TAGS and text:
                found[name] = text
    return found


def clean(text: str, longest: int = _LONGEST_TAG) -> str:
    """One line of printable text: no control characters, no marks that turn the direction of writing."""
    kept = ("" if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn") else char for char in text)
    return " ".join("".join(kept).split())[:longest].strip()


def usable_cover(picture: bytes) -> bytes | None:
    """An attached picture as it is, if it is a JPEG or PNG of at most 4 MB."""
    return picture if len(picture) <= _LARGEST_COVER_BYTES and picture_kind(picture) else None


def picture_kind(picture: bytes) -> str | None:
    """The FFmpeg codec of a picture: "mjpeg", "png" or None."""
    if picture[:3] == b"\xff\xd8\xff":
        return "mjpeg"
    return "png" if picture[:8] == b"\x89PNG\r\n\x1a\n" else None


def stem_tags(tags: Mapping[str, str], *, title: str, stem: str, model: str) -> dict[str, str]:
    """The tags of one stem: the song's, with the stem in the title and how it was made in the comment."""
    result = {key: value for key, value in tags.items() if key in KEPT_TAGS}
    result["title"] = f"{clean(title) or 'audio'} ({stem})"
    result["comment"] = f"{stem}, separated with {model} by Stemify"
    return result
