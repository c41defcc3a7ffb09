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
_CONFIRMATION_S = 0.5
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
    # discord.py may have asked just now; the answer to a second request would end the next connection.
    if await _has_left(channel, _CONFIRMATION_S):
        return
    await channel.guild.change_voice_state(channel=None)
    await _has_left(channel, _LEAVE_TIMEOUT_S)


async def _has_left(channel: VoiceChannel, timeout_s: float) -> bool:
    """Wait until Discord has confirmed that the bot is not in the channel; return False at the timeout."""
    for _ in range(round(timeout_s / _POLL_S)):
        if channel.guild.me.id not in channel.voice_states:
            return True
        await asyncio.sleep(_POLL_S)
    return False
