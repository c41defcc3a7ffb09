"""Tags and cover art, copied from a song to its stems."""

from __future__ import annotations

from collections.abc import Mapping

import av
from av.audio.stream import AudioStream

from engine.media.charset import repair
from engine.text import printable_line

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
"""Tags that make sense on a stem."""

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
    """Return the cleaned `KEPT_TAGS` of a file. Ogg has them on the stream, other formats on the container."""
    tags: dict[str, str] = {}
    for source in (stream.metadata, container.metadata):
        for key, value in source.items():
            name = _ALIASES.get(key.lower(), key.lower())
            text = repair(value) if container.format.name in _MAY_MISSTATE_ENCODING else value
            text = printable_line(text, _LONGEST_TAG)
            if name in KEPT_TAGS and text:
                tags[name] = text
    return tags


def usable_cover(picture: bytes) -> bytes | None:
    """Return an attached picture unchanged if it is a JPEG or PNG of at most 4 MB, otherwise None."""
    return picture if len(picture) <= _LARGEST_COVER_BYTES and picture_kind(picture) else None


def picture_kind(picture: bytes) -> str | None:
    """Return the FFmpeg codec of a picture: "mjpeg", "png" or None."""
    if picture[:3] == b"\xff\xd8\xff":
        return "mjpeg"
    return "png" if picture[:8] == b"\x89PNG\r\n\x1a\n" else None


def stem_tags(tags: Mapping[str, str], *, title: str, stem: str, model: str) -> dict[str, str]:
    """Return the tags of one stem: the song's, with the stem in the title and the model in the comment."""
    result = {key: value for key, value in tags.items() if key in KEPT_TAGS}
    result["title"] = f"{printable_line(title, _LONGEST_TAG) or 'audio'} ({stem})"
    result["comment"] = f"{stem}, separated with {model} by Stemify"
    return result
