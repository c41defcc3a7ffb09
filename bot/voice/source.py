"""The frames of a session for discord.py's player thread."""

from __future__ import annotations

import discord

from engine.service.service import VoiceStream

SILENCE = b"\xf8\xff\xfe"


class StreamSource(discord.AudioSource):
    """Hands on the frames of the current stream, and silence between streams."""

    def __init__(self) -> None:
        self.stream: VoiceStream | None = None
        self.is_open = True

    def read(self) -> bytes:
        """Return 20 ms of Opus without waiting."""
        if not self.is_open:
            return b""
        stream = self.stream
        return SILENCE if stream is None else stream.read_frame()

    def is_opus(self) -> bool:
        return True

    def cleanup(self) -> None:
        self.is_open = False
