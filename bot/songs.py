"""Find the songs in a message: attachments and links, including those of a forwarded message."""

from __future__ import annotations

from collections.abc import Iterator

import discord

from engine.jobs.file_types import EXTENSIONS
from engine.service.service import Attachment, Link, video_ids_in

MAX_TRACKS = 5

Source = Attachment | Link


def source_of(attachment: discord.Attachment) -> Attachment:
    return Attachment(filename=attachment.filename, url=attachment.url, declared_bytes=attachment.size)


def audio_attachments(message: discord.Message) -> list[discord.Attachment]:
    """Return the attachments that look like audio; the service checks their content."""
    return [attachment for attachment in _attachments(message) if _looks_like_audio(attachment)][:MAX_TRACKS]


def find_link(message: discord.Message) -> Link | None:
    """Return the text as a link source if it contains a link to a video."""
    text = "\n".join([message.content, *(snapshot.content for snapshot in message.message_snapshots)])
    return Link(text) if video_ids_in(text) else None


def _attachments(message: discord.Message) -> Iterator[discord.Attachment]:
    yield from message.attachments
    for snapshot in message.message_snapshots:
        yield from snapshot.attachments


def _looks_like_audio(attachment: discord.Attachment) -> bool:
    kind = attachment.content_type or ""
    return kind.startswith(("audio/", "video/")) or attachment.filename.casefold().endswith(EXTENSIONS)
