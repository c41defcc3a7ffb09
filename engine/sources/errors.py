"""Reasons why the audio of a video could not be fetched, each with what to do instead."""

from __future__ import annotations

from engine.errors import SourceFailed, SourceUnreachable


class VideoPrivate(SourceFailed):
    """That video is private. Choose a public one, or attach the file instead."""

    code = "youtube_private"


class VideoAgeRestricted(SourceFailed):
    """That video is age-restricted. Please attach the file instead."""

    code = "youtube_age"


class VideoMembersOnly(SourceFailed):
    """That video is for members or buyers only. Please attach the file instead."""

    code = "youtube_members"


class VideoRemoved(SourceFailed):
    """That video has been removed. Choose another one, or attach the file instead."""

    code = "youtube_removed"


class VideoBlocked(SourceFailed):
    """That video is blocked by a copyright claim. Choose another one, or attach the file instead."""

    code = "youtube_copyright"


class VideoGeoBlocked(SourceFailed):
    """That video is not available in this server's country. Please attach the file instead."""

    code = "youtube_geo"


class VideoUnavailable(SourceFailed):
    """That video is not available. Check the link, or attach the file instead."""

    code = "youtube_unavailable"


class VideoProtected(SourceFailed):
    """That video is copy-protected. Please attach the file instead."""

    code = "youtube_protected"


class VideoLive(SourceFailed):
    """That is a live stream. Try again when its recording is available, or attach the file instead."""

    code = "youtube_live"


class VideoUpcoming(SourceFailed):
    """That video has not been released yet. Try again after its release, or attach the file instead."""

    code = "youtube_upcoming"


class VideoTooLong(SourceFailed):
    """That video is too long. Choose a shorter one, or attach the file instead."""

    code = "youtube_too_long"


class VideoTooLarge(SourceFailed):
    """The audio of that video is too large. Choose a shorter one, or attach the file instead."""

    code = "youtube_too_large"


class VideoNoAudio(SourceFailed):
    """That video has no audio to download. Choose another one, or attach the file instead."""

    code = "youtube_no_audio"


class YoutubeCaptcha(SourceFailed):
    """YouTube wants a captcha from this server; the bot's operator can set up cookies or a proxy. Please attach the
    file instead."""

    code = "youtube_bot_check"


class YoutubeRateLimited(SourceFailed):
    """YouTube is rate-limiting this server. Try again in about an hour, or attach the file instead."""

    code = "youtube_rate_limit"


class YoutubePaused(SourceFailed):
    """YouTube is refusing requests from this server. Try again later, or attach the file instead."""

    code = "youtube_paused"


class YoutubeForbidden(SourceFailed):
    """YouTube refused to send the audio of that video. Try again later, or attach the file instead."""

    code = "youtube_forbidden"


class YoutubeNotSetUp(SourceFailed):
    """YouTube is not set up correctly on this server; the bot's operator finds the reason in the log. Please attach the
    file instead."""

    code = "youtube_setup"


class YoutubeChallengeUnsolved(SourceFailed):
    """YouTube's JavaScript challenge could not be solved; docs/youtube.md tells the bot's operator what to do. Please
    attach the file instead."""

    code = "youtube_challenge"


class YoutubeChanged(SourceFailed):
    """YouTube has changed; the bot's operator may have to update yt-dlp. Please attach the file instead."""

    code = "youtube_changed"


class YoutubeUnreachable(SourceUnreachable):
    """YouTube could not be reached. Try again later, or attach the file instead."""

    code = "youtube_unreachable"


class YoutubeTimedOut(SourceUnreachable):
    """The download of that video took too long. Try again later, or attach the file instead."""

    code = "youtube_timeout"


class YoutubeFetcherDied(SourceUnreachable):
    """The download was interrupted. Try again later, or attach the file instead."""

    code = "youtube_fetcher_died"
