"""The connection to a voice channel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import discord

from bot.voice.checks import VoiceChannel
from bot.voice.text import could_not_join
from engine.errors import InvalidState

if TYPE_CHECKING:
    from discord.types.voice import GuildVoiceState

CONNECT_TIMEOUT_S = 20.0
RECOVERY_S = 6.0
_LEAVE_TIMEOUT_S = 5.0
_POLL_S = 0.05
_WAIT_S = 0.5


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
    raise InvalidState(could_not_join(channel.id), detail=f"{problem!r}"[:200])


async def recovers(client: VoiceConnection) -> bool:
    """Wait while a connection is opened again by discord.py; return whether it is up.

    A move takes a second or two. After a crash of the voice server, a new one is quicker.
    """
    for _ in range(round(RECOVERY_S / _WAIT_S)):
        if client.was_removed or client.is_connected() or client.guild.voice_client is not client:
            break
        await asyncio.sleep(_WAIT_S)
    return client.is_connected() and not client.was_removed


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
