"""A video of the fake YouTube, and its JSON in the format of the real one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode

from tests.fakes.youtube.puzzle import new_challenge

Json = dict[str, Any]
MEDIA_HOST = "rr3---sn-fake1.googlevideo.com"


@dataclass
class Video:
    """A video to serve.

    `media` is the file; `status` and `reason` are those of playabilityStatus; `behaviour` is the media host's: it
    serves, stalls after a few bytes, or answers 403 once or always.
    """

    id: str
    media: bytes = b""
    mime: str = 'audio/webm; codecs="opus"'
    itag: int = 251
    title: str = "A small song"
    channel: str = "The Testers"
    duration_s: int | None = 3
    status: str = "OK"
    reason: str | None = None
    subreason: str | None = None
    details: Json = field(default_factory=dict)  # more of videoDetails: isLive, …
    format_extras: Json = field(default_factory=dict)  # more of the format: drmFamilies, …
    description: str = ""
    has_formats: bool = True
    says_length: bool = True  # whether the format and the responses state their length
    signed: bool = False  # the format's address is scrambled
    media_host: str = MEDIA_HOST
    behaviour: Literal["serve", "stall", "forbid_once", "forbid", "break", "unavailable"] = "serve"
    challenge: str = field(default_factory=new_challenge)
    signature: str = field(default_factory=new_challenge)
    media_requests: int = 0

    def player_response(self, *, playable: bool) -> Json:
        """Return the player API's response; `playable`: with addresses that can be fetched."""
        status: Json = {"status": self.status, "playableInEmbed": True}
        if self.reason is not None:
            status["reason"] = self.reason
            screen: Json = {"reason": {"simpleText": self.reason}}
            if self.subreason is not None:
                screen["subreason"] = {"simpleText": self.subreason}
            status["errorScreen"] = {"playerErrorMessageRenderer": screen}
        details: Json = {
            "videoId": self.id,
            "title": self.title,
            "author": self.channel,
            "channelId": "UC" + "x" * 22,
            "isLiveContent": False,
            "shortDescription": self.description,
            **self.details,
        }
        if self.duration_s is not None:
            details["lengthSeconds"] = str(self.duration_s)
        answer: Json = {"playabilityStatus": status, "videoDetails": details}
        if self.status == "OK" and self.has_formats:
            answer["streamingData"] = {"expiresInSeconds": "21540", "adaptiveFormats": [self._format(playable)]}
        return answer

    def _format(self, playable: bool) -> Json:
        one: Json = {
            "itag": self.itag,
            "mimeType": self.mime,
            "bitrate": 130000,
            "averageBitrate": 128000,
            "quality": "tiny",
            "audioQuality": "AUDIO_QUALITY_MEDIUM",
            "audioSampleRate": "48000",
            "audioChannels": 2,
            "approxDurationMs": str((self.duration_s or 0) * 1000),
            **self.format_extras,
        }
        if self.says_length:
            one["contentLength"] = str(len(self.media))
        address = f"https://{self.media_host}/videoplayback?" + urlencode({"id": self.id, "n": self.challenge})
        if not playable:
            return one  # the real one plays for browsers only (SABR)
        if self.signed:
            one["signatureCipher"] = urlencode({"s": self.signature, "sp": "sig", "url": address})
        else:
            one["url"] = address
        return one

    def watch_data(self) -> Json:
        """Return the watch page's ytInitialData, which contains the channel's name."""
        return {
            "contents": {
                "twoColumnWatchNextResults": {
                    "results": {
                        "results": {
                            "contents": [
                                {"videoPrimaryInfoRenderer": {"title": {"runs": [{"text": self.title}]}}},
                                {
                                    "videoSecondaryInfoRenderer": {
                                        "owner": {"videoOwnerRenderer": {"title": {"runs": [{"text": self.channel}]}}}
                                    }
                                },
                            ]
                        }
                    }
                }
            }
        }
