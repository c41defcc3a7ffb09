"""Find the YouTube video linked in a text, without any request.

An address is reduced to the video's id, and a new address is built from it, so a link cannot smuggle in another host,
a redirect, a playlist or a user name. Ambiguous links are refused. yt-dlp's own matcher is too lenient: it
accepts other hosts, redirects and bare words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from engine.errors import BadLink

MAX_TEXT_CHARACTERS = 8_000  # twice the longest Discord message
MAX_WORD_CHARACTERS = 2_000
MAX_MARKS_AFTER = 16

_ID = r"[A-Za-z0-9_-]{11}"
# A query or fragment: the printable ASCII allowed in a URL except "#", and other scripts.
_REST = r"[!$%&'()*+,\-./0-9:;=?@A-Z_a-z~\[\]\u00a1-\U0010ffff]*"
_ADDRESS = re.compile(
    rf"""
    (?: (?P<scheme> https? ) :// )?
    (?:
        (?: (?: www | m | music ) \. )? youtube \. com  (?P<port> :[0-9]+ )?
        / (?: watch /? \? (?P<query> {_REST} )
            | attribution_link \? (?P<attribution> {_REST} )
            | (?: shorts | live | embed | v ) / (?P<path_id> {_ID} ) /? (?: [?&] {_REST} )? )
      |
        (?: www \. )? youtube-nocookie \. com  (?P<port_embed> :[0-9]+ )?
        / (?: embed | v ) / (?P<embedded> {_ID} ) /? (?: [?&] {_REST} )?
      |
        youtu \. be  (?P<port_be> :[0-9]+ )?  / (?P<shared> {_ID} ) /? (?: \? {_REST} )?
    )
    (?: \# {_REST} )?
    """,
    re.VERBOSE,
)
_WATCH = re.compile(rf"/watch/?\?(?P<query>{_REST})")  # the target of an attribution link
_NOT_IDS = {"videoseries", "live_stream"}  # of embedded playlists and channels
_HOST_PART = re.compile(r"(?:https?://)?[a-z.:0-9-]+", re.IGNORECASE | re.ASCII)
_FULL_ID = re.compile(_ID, re.ASCII)
_DEFAULT_PORT = {"https": ":443", "http": ":80", None: ":443"}
# Characters around a link in a message: brackets, quotes, Markdown, the end of a sentence.
_BEFORE = "<([{\"'`*_~|"
_AFTER = ">)]}\"'`*_~|.,;:!?…。、，！？）」』】"
_TEXT_BEFORE_SCHEME = re.compile(r"[^\x00-\x7f]+(?=https?://)")  # languages that put no space before a link
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_MARKDOWN_LABEL = re.compile(r"[^\s()/:]*\]\(")


@dataclass(frozen=True)
class VideoLink:
    """One YouTube video. `url` is the canonical address, built from `video_id` (11 characters)."""

    video_id: str
    url: str

    @classmethod
    def of(cls, video_id: str) -> VideoLink:
        """Build a link. Raises `BadLink` if `video_id` is not a video's id."""
        if not _FULL_ID.fullmatch(video_id):
            raise BadLink
        return cls(video_id, f"https://www.youtube.com/watch?v={video_id}")


def video_ids_in(text: str) -> list[str]:
    """Return the ids of all videos linked in `text`, each once, in order."""
    if len(text) > MAX_TEXT_CHARACTERS or _CONTROL.search(text):
        return []
    words = (word for word in text.split() if len(word) <= MAX_WORD_CHARACTERS)
    return list(dict.fromkeys(video_id for word in words if (video_id := _video_id_in(word))))


def parse_link(text: str) -> VideoLink:
    """Return the one video linked in `text`, an address or a whole message.

    Playlists and times in the address are ignored. Raises `BadLink` if there is no video, or more than one.
    """
    ids = video_ids_in(text)
    if len(ids) > 1:
        raise BadLink(
            "That message links to more than one video. Paste the address of one, or attach the file instead."
        )
    if not ids:
        raise BadLink
    return VideoLink.of(ids.pop())


def _video_id_in(word: str) -> str | None:
    """Return the id if `word` is a video's address, apart from punctuation around it."""
    for start in _starts(word):
        candidate = start
        # An id may end in "_" or "-", so marks are removed one at a time until the address matches.
        for _ in range(MAX_MARKS_AFTER):
            if video_id := _video_id_of(candidate):
                return video_id
            if not candidate or candidate[-1] not in _AFTER:
                break
            candidate = candidate[:-1]
    return None


def _starts(word: str) -> Iterator[str]:
    """Yield `word` from each place where an address may start.

    At its start, after brackets or a Markdown label, after letters of another script; never within another address.
    """
    bare = word.lstrip(_BEFORE)
    yield bare
    if label := _MARKDOWN_LABEL.match(word):
        yield word[label.end() :].lstrip("<")
    if script := _TEXT_BEFORE_SCHEME.match(bare):
        yield bare[script.end() :]


def _video_id_of(address: str) -> str | None:
    host = _HOST_PART.match(address)
    if host is None:
        return None
    match = _ADDRESS.fullmatch(address[: host.end()].lower() + address[host.end() :])
    if match is None:
        return None
    port = match["port"] or match["port_be"] or match["port_embed"]
    if port is not None and port != _DEFAULT_PORT[match["scheme"]]:
        return None
    if match["query"] is not None:
        return _id_of_query(match["query"])
    if match["attribution"] is not None:
        return _id_of_attribution(match["attribution"])
    video_id = match["path_id"] or match["embedded"] or match["shared"]
    return None if video_id in _NOT_IDS else video_id


def _value(query: str, name: str) -> str:
    """Return the raw value of a query parameter; "" unless there is exactly one."""
    parts = (part.partition("=") for part in query.replace("&amp;", "&").split("&"))
    values = {value for key, _, value in parts if key == name}
    return values.pop() if len(values) == 1 else ""


def _id_of_query(query: str) -> str | None:
    video_id = _value(query, "v").removesuffix("/")
    return video_id if _FULL_ID.fullmatch(video_id) else None


def _id_of_attribution(query: str) -> str | None:
    """Return the video id in the target of an attribution link."""
    match = _WATCH.fullmatch(unquote(_value(query, "u")))
    video_id = _id_of_query(match["query"]) if match is not None else None
    return video_id if video_id is not None and video_id in query else None
