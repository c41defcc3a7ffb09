"""Why a video's sound could not be fetched: leaves of the one tree, each with what to do instead."""

from __future__ import annotations

from engine.errors import SourceFailed, SourceUnreachable


class VideoPrivate(SourceFailed):
    """That video is private. Choose a public one, or attach the file instead."""

    code = "youtube_private"


class VideoAgeRestricted(SourceFailed):
    """YouTube shows that video to signed-in adults only. Please attach the file instead."""

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
    """That video cannot be watched in the country of this server. Please attach the file instead."""

    code = "youtube_geo"


class VideoUnavailable(SourceFailed):
    """That video is not available. Check the link, or attach the file instead."""

    code = "youtube_unavailable"


class VideoProtected(SourceFailed):
    """That video is copy-protected. Please attach the file instead."""

    code = "youtube_protected"


class VideoLive(SourceFailed):
    """That is a live stream. Come back when its recording is there, or attach the file instead."""

    code = "youtube_live"


class VideoUpcoming(SourceFailed):
    """That video has not started yet. Come back when it is out, or attach the file instead."""

    code = "youtube_upcoming"


class VideoTooLong(SourceFailed):
    """That video is too long. Choose a shorter one, or attach the file instead."""

    code = "youtube_too_long"


class VideoTooLarge(SourceFailed):
    """The audio of that video is too large. Choose a shorter one, or attach the file instead."""

    code = "youtube_too_large"


class VideoNoAudio(SourceFailed):
    """There is no sound to fetch from that video. Choose another one, or attach the file instead."""

    code = "youtube_no_audio"


class YoutubeCaptcha(SourceFailed):
    """YouTube takes this server for a bot. Whoever runs it can help with cookies or a proxy; until then please
    attach the file instead."""

    code = "youtube_bot_check"


class YoutubeRateLimited(SourceFailed):
    """YouTube has had enough of this server for about an hour. Try again later, or attach the file instead."""

    code = "youtube_rate_limit"


class YoutubePaused(SourceFailed):
    """YouTube is refusing this server just now. Try again later, or attach the file instead."""

    code = "youtube_paused"


class YoutubeForbidden(SourceFailed):
    """YouTube did not hand out the sound of that video. Try again in a while, or attach the file instead."""

    code = "youtube_forbidden"


class YoutubeNotSetUp(SourceFailed):
    """YouTube cannot be used here as it is set up; whoever runs this bot finds the reason in the log. Until then
    please attach the file instead."""

    code = "youtube_setup"


class YoutubeChallengeUnsolved(SourceFailed):
    """YouTube's puzzle for players could not be solved here; whoever runs this bot finds help in docs/youtube.md.
    Until then please attach the file instead."""

    code = "youtube_challenge"


class YoutubeChanged(SourceFailed):
    """YouTube has changed, and this bot has not caught up; whoever runs it may have to update yt-dlp. Until then
    please attach the file instead."""

    code = "youtube_changed"


class YoutubeUnreachable(SourceUnreachable):
    """YouTube could not be reached just now. Try again in a while, or attach the file instead."""

    code = "youtube_unreachable"


class YoutubeTimedOut(SourceUnreachable):
    """Fetching that video took too long. Try again in a while, or attach the file instead."""

    code = "youtube_timeout"


class YoutubeFetcherDied(SourceUnreachable):
    """The download broke off. Try again in a while, or attach the file instead."""

    code = "youtube_fetcher_died"
