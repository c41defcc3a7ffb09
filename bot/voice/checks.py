"""Check what Discord would refuse without a reason, or silently."""

from __future__ import annotations

import discord

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
    name = f"<#{channel.id}>"
    for permission, label in (("view_channel", "View Channel"), ("connect", "Connect"), ("speak", "Speak")):
        if permission == "speak" and isinstance(channel, discord.StageChannel):
            continue
        if not getattr(allowed, permission):
            raise NotAllowed(f"I need the permission {label} in {name}.")
    is_full = channel.user_limit and len(channel.voice_states) >= channel.user_limit
    if is_full and not allowed.move_members and channel.guild.me.id not in channel.voice_states:
        raise InvalidState(f"{name} is full.")


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
        return "I am in the audience: a moderator of the stage must invite me to speak."
    return "I have asked to speak: a moderator of the stage must invite me."
