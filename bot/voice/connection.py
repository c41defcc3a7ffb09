"""The connection to a voice channel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import discord

from bot.voice.checks import VoiceChannel
from engine.errors import InvalidState

if TYPE_CHECKING:
    from discord.types.voice import GuildVoiceState

CONNECT_TIMEOUT_S = 20.0
_LEAVE_TIMEOUT_S = 5.0
_POLL_S = 0.05


class VoiceConnection(discord.VoiceClient):
    """discord.py's connection, which notes whether a moderator ended it."""

    was_removed = False

    async def on_voice_state_update(self, data: GuildVoiceState) -> None:
        if data["channel_id"] is None and self.is_connected():
            self.was_removed = True
        await super().on_voice_state_update(data)


async def connect(channel: VoiceChannel) -> VoiceConnection:
    """Join a channel. Raises `InvalidState`."""
    await _leave_first(channel)
    problem: Exception | None = None
    try:
        # Its own reconnection does not wait until Discord has confirmed that it left; so it times out.
        client = await channel.connect(timeout=CONNECT_TIMEOUT_S, reconnect=False, self_deaf=True, cls=VoiceConnection)
        if client.is_connected():
            return client
        await client.disconnect(force=True)
    except (TimeoutError, OSError, discord.DiscordException) as error:
        problem = error
    raise InvalidState(f"I could not join <#{channel.id}>. Try again.", detail=f"{problem!r}"[:200])


async def _leave_first(channel: VoiceChannel) -> None:
    """Leave a channel in which the bot still is after its process or its connection ended."""
    guild = channel.guild
    if guild.me.id not in channel.voice_states:
        return
    await guild.change_voice_state(channel=None)
    for _ in range(round(_LEAVE_TIMEOUT_S / _POLL_S)):
        if guild.me.id not in channel.voice_states:
            return
        await asyncio.sleep(_POLL_S)
