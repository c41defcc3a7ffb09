"""Which posted files are songs: no videos, no voice messages, and nothing short."""

from __future__ import annotations

import discord

from bot.submission.songs import Source, audio_attachments, songs_in, source_of

MIN_DURATION_S = 20.0

_LOWEST_RATES = (  # in bytes a second, of files that people post
    ((".wav", ".w64", ".aiff", ".aif", ".aifc", ".caf"), 44_100),
    ((".flac",), 30_000),
)
_LOWEST_COMPRESSED_RATE = 6_000


def posted_songs(message: discord.Message) -> list[Source]:
    """Return the songs that a user posted; in a direct message to the bot, all songs."""
    if message.guild is None:
        return songs_in(message)
    if message.flags.voice or any(snapshot.flags.voice for snapshot in message.message_snapshots):
        return []
    return [source_of(file) for file in audio_attachments(message) if _is_audio_only(file) and not _is_short(file)]


def _is_audio_only(attachment: discord.Attachment) -> bool:
    return not (attachment.content_type or "").startswith("video/") and not attachment.is_voice_message()


def _is_short(attachment: discord.Attachment) -> bool:
    """Return whether the file is too small for the shortest song; its true length is measured when it is split."""
    name = attachment.filename.casefold()
    rates = (rate for extensions, rate in _LOWEST_RATES if name.endswith(extensions))
    return attachment.size < MIN_DURATION_S * next(rates, _LOWEST_COMPRESSED_RATE)
