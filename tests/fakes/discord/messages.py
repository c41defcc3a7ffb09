"""What Discord does with the messages that the REST routes send and edit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.fakes.discord import payloads
from tests.fakes.discord.components import walk
from tests.fakes.discord.forms import RequestRejected
from tests.fakes.discord.state import LOADING, Attachment, Json, Message

if TYPE_CHECKING:
    from tests.fakes.discord.server import FakeDiscord


class Messages:
    """Apply payloads to messages and record their versions."""

    def __init__(self, fake: FakeDiscord) -> None:
        self.fake = fake

    def appear(self, message: Message) -> None:
        message.channel.messages[message.id] = message
        if not message.loading:
            self._arrived(message)

    def _arrived(self, message: Message) -> None:
        message.versions.append((time.time(), message.text))
        message.pinged = message.mentioned()
        self._host(message.attachments)

    def apply(self, message: Message, payload: Json, files: list[Attachment], limit_bytes: int) -> None:
        """Apply the payload, unless a filter of the server blocks it."""
        parts = walk(payload.get("components") or [])
        words = [payload.get("content"), *(part.get(key) for part in parts for key in ("content", "url"))]
        text = "\n".join(filter(None, words)).replace("\\", "")
        for code, word in self.fake.blocked_words.items():
            if message.channel.guild is not None and word in text:
                raise RequestRejected(400, code, "Message was blocked by a filter.")
        payloads.apply(message, payload, files, limit_bytes)

    def change(self, message: Message, payload: Json, files: list[Attachment], limit_bytes: int) -> None:
        was_loading = message.loading
        self.apply(message, payload, files, limit_bytes)
        message.flags &= ~LOADING
        if was_loading:
            self._arrived(message)
            return
        message.edits += 1
        message.versions.append((time.time(), message.text))
        self._host(message.attachments)

    def _host(self, attachments: list[Attachment]) -> None:
        for attachment in attachments:
            self.fake.host_file(attachment)
