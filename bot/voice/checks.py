"""Check what Discord would refuse without a reason, or silently."""

from __future__ import annotations

import discord

from bot.voice import text
from engine.errors import InvalidState, NotAllowed

VoiceChannel = discord.VoiceChannel | discord.StageChannel


def channel_of(guild: discord.Guild, user_id: int) -> VoiceChannel | None:
    """Return the voice channel in which a user is."""
    channels: list[VoiceChannel] = [*guild.voice_channels, *guild.stage_channels]
    return next((channel for channel in channels if user_id in channel.voice_states), None)


def listeners_in(channel: VoiceChannel) -> int:
    """Return the number of others in a channel."""
    return len(set(channel.voice_states) - {channel.guild.me.id})


def check_can_join(channel: VoiceChannel) -> None:
    """Raise `NotAllowed` or `InvalidState` with a sentence if the bot cannot play there."""
    allowed = channel.permissions_for(channel.guild.me)
    for permission, label in text.PERMISSIONS.items():
        if permission == "speak" and isinstance(channel, discord.StageChannel):
            continue
        if not getattr(allowed, permission):
            raise NotAllowed(text.needs_permission(label, channel.id))
    is_full = channel.user_limit and len(channel.voice_states) >= channel.user_limit
    if is_full and not allowed.move_members and channel.guild.me.id not in channel.voice_states:
        raise InvalidState(text.channel_is_full(channel.id))


async def become_speaker(channel: VoiceChannel) -> str:
    """Ask to speak on a stage, where the bot joins as audience; return what is missing, or ""."""
    if not isinstance(channel, discord.StageChannel):
        return ""
    me = channel.guild.me
    try:
        if channel.permissions_for(me).mute_members:
            await me.edit(suppress=False)
            return ""
        await me.request_to_speak()
    except discord.HTTPException:
        return text.IN_AUDIENCE
    return text.ASKED_TO_SPEAK
