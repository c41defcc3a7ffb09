"""Find the songs in a message: attachments and links, including those of a forwarded message."""

from __future__ import annotations

from collections.abc import Iterator

import discord

from bot.messages.messenger import retry_on_disconnect
from bot.submission import text
from engine.errors import NotFound
from engine.jobs.file_types import EXTENSIONS
from engine.service.service import Attachment, Link, video_ids_in

MAX_SONGS = 10  # of one request

Source = Attachment | Link


def source_of(attachment: discord.Attachment) -> Attachment:
    return Attachment(filename=attachment.filename, url=attachment.url, declared_bytes=attachment.size)


def audio_attachments(message: discord.Message) -> list[discord.Attachment]:
    """Return the attachments that look like audio; the service checks their content."""
    return [attachment for attachment in _attachments(message) if _looks_like_audio(attachment)]


def links_in(words: str) -> list[Link]:
    """Return a link to each video that the words link to."""
    return [Link(f"https://youtu.be/{video_id}") for video_id in video_ids_in(words)]


def songs_in(message: discord.Message) -> list[Source]:
    """Return the files and the links of a message."""
    files = [source_of(attachment) for attachment in audio_attachments(message)]
    texts = [message.content, *(snapshot.content for snapshot in message.message_snapshots)]
    return [*files, *links_in("\n".join(texts))]


async def fetch_message(channel: discord.PartialMessageable, message_id: int) -> discord.Message:
    """Return a message with songs. Raises `NotFound` if it was deleted or the bot cannot read it."""
    try:
        return await retry_on_disconnect(lambda: channel.fetch_message(message_id))
    except (discord.NotFound, discord.Forbidden):
        raise NotFound(text.SOURCE_GONE) from None


def name_of(source: Source) -> str:
    """Return the name of a song before its file was read."""
    return source.filename if isinstance(source, Attachment) else source.text.removeprefix("https://")


def _attachments(message: discord.Message) -> Iterator[discord.Attachment]:
    yield from message.attachments
    for snapshot in message.message_snapshots:
        yield from snapshot.attachments


def _looks_like_audio(attachment: discord.Attachment) -> bool:
    kind = attachment.content_type or ""
    return kind.startswith(("audio/", "video/")) or attachment.filename.casefold().endswith(EXTENSIONS)
