"""The frames of a session for discord.py's player thread."""

from __future__ import annotations

import discord

from bot.voice.time_slice import shorten_time_slice
from engine.service.service import VoiceStream

SILENCE = b"\xf8\xff\xfe"


class StreamSource(discord.AudioSource):
    """Hands on the frames of the current stream, and silence between streams."""

    def __init__(self) -> None:
        self.stream: VoiceStream | None = None
        self.is_open = True
        self._is_thread_ready = False

    def read(self) -> bytes:
        """Return 20 ms of Opus without waiting."""
        if not self._is_thread_ready:
            shorten_time_slice()  # otherwise a separation delays packets by several ms
            self._is_thread_ready = True
        if not self.is_open:
            return b""
        stream = self.stream
        return SILENCE if stream is None else stream.read_frame()

    def is_opus(self) -> bool:
        return True

    def cleanup(self) -> None:
        self.is_open = False
