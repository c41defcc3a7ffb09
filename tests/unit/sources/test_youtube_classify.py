from __future__ import annotations

import pytest

from engine import errors
from engine.errors import SourceFailed, SourceUnreachable
from engine.sources.errors import (
    YoutubePaused,
)
from engine.sources.youtube.circuit_breaker import Breaker, Outcome
from engine.sources.youtube.classify import ABOUT_THE_VIDEO, REFUSALS_OF_THIS_SERVER, Failure, classify, redact

LOGIN_HINT = (
    "Use --cookies-from-browser or --cookies for the authentication. See  "
    "https://github.com/yt-dlp/yt-dlp/wiki/FAQ#how-do-i-pass-cookies-to-yt-dlp  for how to manually pass cookies. "
    "Also see  https://github.com/yt-dlp/yt-dlp/wiki/Extractors#exporting-youtube-cookies  for tips on effectively "
    "exporting YouTube cookies"
)
REPORT_HINT = (
    "; please report this issue on  https://github.com/yt-dlp/yt-dlp/issues?q= , filling out the appropriate issue "
    "template. Confirm you are on the latest version using  yt-dlp -U"
)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"Private video. Sign in if you've been granted access to this video. {LOGIN_HINT}", "youtube_private"),
        ("This video is private", "youtube_private"),
        (f"Sign in to confirm your age. This video may be inappropriate for some users. {LOGIN_HINT}", "youtube_age"),
        ("Join this channel to get access to members-only content like this video", "youtube_members"),
        ("This video is available to this channel's members on level: Gold (or any higher level)", "youtube_members"),
        ("This video is only available to Music Premium members", "youtube_members"),
        ("This video requires payment to watch", "youtube_members"),
        ("Video unavailable. This video has been removed by the uploader", "youtube_removed"),
        ("This video has been removed for violating YouTube’s Terms of Service", "youtube_removed"),
        (
            "Video unavailable. This video is no longer available because the YouTube account associated with this "
            "video has been terminated.",
            "youtube_removed",
        ),
        (
            "Video unavailable. This video is no longer available due to a copyright claim by Some Label",
            "youtube_copyright",
        ),
        ("Video unavailable. This video contains content from SME, who has blocked it on copyright grounds",
         "youtube_copyright"),
        (
            "Video unavailable. This video contains content from UMG, who has blocked it in your country on copyright "
            "grounds",
            "youtube_geo",
        ),
        ("The uploader has not made this video available in your country", "youtube_geo"),
        ("Video unavailable", "youtube_unavailable"),
        ("This video is unavailable", "youtube_unavailable"),
        ("This live stream recording is not available.", "youtube_unavailable"),
        ("Premieres in 3 days", "youtube_upcoming"),
        ("This live event will begin in 5 hours.", "youtube_upcoming"),
        ("This video is DRM protected", "youtube_protected"),
        (f"Sign in to confirm you’re not a bot. {LOGIN_HINT}", "youtube_bot_check"),
        ("Video unavailable. YouTube is requiring a captcha challenge before playback", "youtube_bot_check"),
        ("All player responses are invalid. Your IP is likely being blocked by Youtube", "youtube_bot_check"),
        (
            "Video unavailable. This content isn’t available, try again later. The current session has been "
            "rate-limited by YouTube for up to an hour.",
            "youtube_rate_limit",
        ),
        (f"Failed to extract any player response{REPORT_HINT}", "youtube_changed"),
        ("Requested format is not available. Use --list-formats for a list of available formats", "youtube_changed"),
        ("unable to write data: [Errno 28] No space left on device", "disk_full"),
        ("'/x/cookies.txt' does not look like a Netscape format cookies file", "youtube_setup"),
    ],
)  # fmt: skip
def test_youtube_message_maps_to_error(text: str, code: str) -> None:
    failure = Failure(
        phase="metadata", kinds=("DownloadError", "ExtractorError"), texts=(f"ERROR: [youtube] x: {text}",)
    )
    assert classify(failure).code == code


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Failure(phase="media", kinds=("DownloadError", "HTTPError"), status=403), "youtube_forbidden"),
        (Failure(phase="media", kinds=("DownloadError", "HTTPError"), status=404), "youtube_unreachable"),
        (Failure(phase="metadata", kinds=("ExtractorError", "HTTPError"), status=429), "youtube_rate_limit"),
        (Failure(phase="metadata", kinds=("ExtractorError", "HTTPError"), status=503), "youtube_unreachable"),
        (Failure(phase="metadata", kinds=("ExtractorError", "TransportError")), "youtube_unreachable"),
        (Failure(phase="media", kinds=("DownloadError", "IncompleteRead", "TransportError")), "youtube_unreachable"),
        (Failure(phase="metadata", kinds=("HTTPError",), status=407), "youtube_setup"),
        (Failure(phase="start", kinds=("ModuleNotFoundError",), texts=("No module named 'yt_dlp'",)), "youtube_setup"),
        (Failure(phase="media", reason="too_long", duration_s=700), "youtube_too_long"),
        (Failure(phase="media", reason="too_large"), "youtube_too_large"),
        (Failure(phase="metadata", reason="live"), "youtube_live"),
        (Failure(phase="metadata", reason="upcoming"), "youtube_upcoming"),
        (Failure(phase="metadata", reason="no_audio", formats=3), "youtube_no_audio"),
        (Failure(phase="metadata", reason="no_audio", formats=3, protected=True), "youtube_protected"),
        (Failure(phase="metadata", reason="no_audio"), "youtube_changed"),
        (Failure(phase="media", reason="no_file"), "youtube_unreachable"),
        (Failure(phase="media", kinds=("MemoryError",)), "source_failed"),
    ],
)
def test_failure_facts_map_to_error(failure: Failure, code: str) -> None:
    assert classify(failure).code == code


@pytest.mark.parametrize(
    ("warning", "code"),
    [
        ("Unable to download webpage: HTTP Error 429: Too Many Requests", "youtube_rate_limit"),
        ("n challenge solving failed: Some formats may be missing.", "youtube_challenge"),
        ("Signature solving failed: Some formats may be missing.", "youtube_challenge"),
        ("Unable to download API page: The read operation timed out", "youtube_unreachable"),
        ("Unable to download API page: HTTP Error 502: Bad Gateway", "youtube_unreachable"),
    ],
)
def test_cause_in_warnings_is_found(warning: str, code: str) -> None:
    text = f"ERROR: [youtube] x: Failed to extract any player response{REPORT_HINT}"
    failure = Failure(phase="metadata", kinds=("DownloadError", "ExtractorError"), texts=(text,), warnings=(warning,))
    assert classify(failure).code == code


def test_client_warning_does_not_hide_video_error() -> None:
    failure = Failure(
        phase="metadata",
        kinds=("DownloadError", "ExtractorError"),
        texts=("ERROR: [youtube] x: Private video",),
        warnings=("Unable to download webpage: HTTP Error 429: Too Many Requests",),
    )
    assert classify(failure).code == "youtube_private"


SOURCE_ERRORS = [kind for kind in errors.error_types().values() if issubclass(kind, SourceFailed)]


@pytest.mark.parametrize("kind", SOURCE_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_suggests_to_attach_the_file(kind: type[SourceFailed]) -> None:
    assert kind().message.endswith("attach the file instead.")
    assert kind.transient == issubclass(kind, SourceUnreachable)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("GET https://user:secret@proxy.example:8080/x?token=1 failed", "GET <proxy.example:8080> failed"),
        ("https://rr1.googlevideo.com/videoplayback?sig=SECRET&ip=1.2.3.4", "<rr1.googlevideo.com>"),
        ("socks5h://me:pw@10.0.0.1:1080", "<10.0.0.1:1080>"),
        ("HTTPSConnectionPool: user:secret@proxy:8080 refused", "HTTPSConnectionPool: proxy:8080 refused"),
        ("nothing to hide: HTTP Error 403", "nothing to hide: HTTP Error 403"),
    ],
)
def test_detail_has_no_signed_address_or_password(text: str, safe: str) -> None:
    assert redact(text) == safe


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_open_breaker_admits_one_trial_after_pause() -> None:
    clock = Clock()
    breaker = Breaker(3600, clock)
    assert breaker.admit() is False
    breaker.leave(Outcome.REFUSED, trial=False)
    clock.now_s += 600
    with pytest.raises(YoutubePaused, match="in about 50 minutes, or attach the file instead") as paused:
        breaker.admit()
    assert paused.value.retry_after_s == breaker.paused_for_s == 3000
    clock.now_s += 3000
    assert breaker.paused_for_s == 0
    assert breaker.admit() is True
    with pytest.raises(YoutubePaused, match="about a minute"):
        breaker.admit()
    breaker.leave(Outcome.ANSWERED, trial=True)
    assert breaker.admit() is False


def test_refused_trial_starts_new_pause() -> None:
    clock = Clock()
    breaker = Breaker(3600, clock)
    breaker.leave(Outcome.REFUSED, trial=breaker.admit())
    clock.now_s += 3601
    breaker.leave(Outcome.REFUSED, trial=breaker.admit())
    with pytest.raises(YoutubePaused):
        breaker.admit()
    assert breaker.paused_for_s == 3600


def test_trial_without_outcome_allows_next_trial() -> None:
    clock = Clock()
    breaker = Breaker(3600, clock)
    breaker.leave(Outcome.REFUSED, trial=breaker.admit())
    clock.now_s += 3601
    breaker.leave(Outcome.UNKNOWN, trial=breaker.admit())
    assert breaker.admit() is True


def test_late_answer_does_not_close_breaker() -> None:
    breaker = Breaker(3600, Clock())
    earlier = breaker.admit()
    breaker.leave(Outcome.REFUSED, trial=breaker.admit())
    breaker.leave(Outcome.ANSWERED, trial=earlier)
    with pytest.raises(YoutubePaused):
        breaker.admit()


def test_video_failure_does_not_open_breaker() -> None:
    assert not set(ABOUT_THE_VIDEO) & set(REFUSALS_OF_THIS_SERVER)
