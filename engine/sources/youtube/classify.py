"""Translate the facts of a failed download into an error.

yt-dlp reports most causes only as text, so this table matches text, from the top: first the exceptions' messages, then
the warnings (only for causes in this server or the network: a warning about one of several clients says little about
the video), then the HTTP status and the exceptions' classes.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from engine.errors import AttemptError, DiskFull, SourceFailed
from engine.sources.errors import (
    VideoAgeRestricted,
    VideoBlocked,
    VideoGeoBlocked,
    VideoLive,
    VideoMembersOnly,
    VideoNoAudio,
    VideoPrivate,
    VideoProtected,
    VideoRemoved,
    VideoTooLarge,
    VideoTooLong,
    VideoUnavailable,
    VideoUpcoming,
    YoutubeCaptcha,
    YoutubeChallengeUnsolved,
    YoutubeChanged,
    YoutubeForbidden,
    YoutubeNotSetUp,
    YoutubeRateLimited,
    YoutubeUnreachable,
)

REFUSALS_OF_THIS_SERVER = (YoutubeCaptcha, YoutubeRateLimited)
ABOUT_THE_VIDEO = (
    VideoAgeRestricted, VideoBlocked, VideoGeoBlocked, VideoLive, VideoMembersOnly, VideoNoAudio, VideoPrivate,
    VideoProtected, VideoRemoved, VideoTooLarge, VideoTooLong, VideoUnavailable, VideoUpcoming,
)  # fmt: skip
"""Failures that prove that YouTube accepts requests from this server."""


class Failure(BaseModel):
    """Facts about a failure, from the child.

    `reason` is set if a check of the child failed; `kinds` are the class names of the exception and its causes;
    `status` is an HTTP status among them.
    """

    model_config = ConfigDict(frozen=True)

    phase: str  # start, metadata, media
    reason: str | None = None
    kinds: tuple[str, ...] = ()
    status: int | None = None
    texts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    formats: int = 0  # reason no_audio: how many formats there were
    protected: bool = False  # reason no_audio: all of them encrypted
    duration_s: float | None = None  # reason too_long


DETAIL_CHARACTERS = 600

_Row = tuple[str, type[AttemptError]]

_CAUSES_IN_TEXTS: tuple[_Row, ...] = (
    # Before copyright: "blocked it in your country on copyright grounds".
    (r"in your (country|region|location)", VideoGeoBlocked),
    (r"not a bot|captcha|unusual traffic|ip is likely being blocked", YoutubeCaptcha),
    (r"content isn't available, try again later|rate-limited by youtube|too many requests", YoutubeRateLimited),
    (r"private video|video is private", VideoPrivate),
    (r"confirm your age|age-restricted|inappropriate for some users|age verification", VideoAgeRestricted),
    (
        r"join this channel|members[- ]only|channel's members|premium members|requires payment|to (rent|buy|purchase)"
        r"|requires a .{0,40}subscription",
        VideoMembersOnly,
    ),
    (r"premieres? (in|will)|will begin|not started yet|upcoming", VideoUpcoming),
    (r"copyright", VideoBlocked),
    (r"has been (removed|terminated|closed|deleted)|no longer available|was removed", VideoRemoved),
    (r"drm[- ]protected|protected by drm", VideoProtected),
    (r"no space left on device|disk quota exceeded", DiskFull),
    (r"file too large", VideoTooLarge),
    (r"netscape format cookies|certificate verify failed|unsupported proxy|no module named", YoutubeNotSetUp),
)
_CAUSES_IN_WARNINGS: tuple[_Row, ...] = (
    (r"not a bot|captcha|unusual traffic", YoutubeCaptcha),
    (r"rate-limited by youtube|too many requests|http error 429", YoutubeRateLimited),
    (r"(challenge|signature) solving failed|no supported javascript runtime", YoutubeChallengeUnsolved),
    (r"certificate verify failed", YoutubeNotSetUp),
)
_NETWORK_IN_WARNINGS = (
    r"timed out|http error 5\d\d|connection (reset|refused|aborted|broken)|name or service|failed to resolve"
    r"|remote end closed|network is unreachable|unable to connect|transporterror|bytes read"
)
_OWN_REASONS: dict[str, type[AttemptError]] = {
    "too_long": VideoTooLong,
    "too_large": VideoTooLarge,
    "live": VideoLive,
    "upcoming": VideoUpcoming,
    "not_this_video": VideoUnavailable,
    "no_file": YoutubeUnreachable,
}
_NETWORK_KINDS = {"TransportError", "ContentTooShortError", "TimeoutError", "ConnectionError"}


def classify(failure: Failure) -> AttemptError:
    """Return the error for `failure`; its `detail`, for the log, contains no addresses."""
    kind = _error_type(failure)
    facts = [failure.phase, failure.reason or "", *failure.texts[:2], *failure.warnings[:5]]
    return kind(detail=redact(" | ".join(part for part in facts if part))[:DETAIL_CHARACTERS])


def _error_type(failure: Failure) -> type[AttemptError]:
    if failure.reason in _OWN_REASONS:
        return _OWN_REASONS[failure.reason]
    texts, warnings = _plain(failure.texts), _plain(failure.warnings)
    if "GeoRestrictedError" in failure.kinds:
        return VideoGeoBlocked
    return (
        _first(_CAUSES_IN_TEXTS, texts)
        or _first(_CAUSES_IN_WARNINGS, warnings)
        or _by_status(failure)
        or _by_kind(failure, texts, warnings)
    )


def _by_status(failure: Failure) -> type[AttemptError] | None:
    status = failure.status
    if status is None:
        return None
    if status == 429:
        return YoutubeRateLimited
    if status == 403:
        return YoutubeForbidden
    if status == 407:
        return YoutubeNotSetUp
    return YoutubeUnreachable if status >= 500 or failure.phase == "media" else None


def _by_kind(failure: Failure, texts: str, warnings: str) -> type[AttemptError]:
    if failure.reason == "no_audio":
        if failure.protected:
            return VideoProtected
        return VideoNoAudio if failure.formats else YoutubeChanged
    if failure.phase == "start":
        return YoutubeNotSetUp
    if _NETWORK_KINDS.intersection(failure.kinds) or re.search(_NETWORK_IN_WARNINGS, texts + warnings):
        return YoutubeUnreachable
    if re.search(r"please report this issue|requested format is not available|failed to extract", texts):
        return YoutubeChanged
    # Another statement by YouTube about the video, in words that this table does not know.
    return VideoUnavailable if "ExtractorError" in failure.kinds else SourceFailed


def _first(rows: tuple[_Row, ...], text: str) -> type[AttemptError] | None:
    return next((kind for pattern, kind in rows if re.search(pattern, text)), None)


def _plain(parts: tuple[str, ...]) -> str:
    return " ".join(parts).replace("’", "'").casefold()


def redact(text: str) -> str:
    """Remove credentials and reduce addresses in `text` to their host."""
    text = re.sub(r"[\w.+-]+://(?:[^\s/@'\"]*@)?([^\s/?#'\"<>]*)[^\s'\"<>]*", r"<\1>", text)
    return re.sub(r"[^\s'\"/@]+:[^\s'\"/@]+@", "", text)
