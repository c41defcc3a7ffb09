"""Posts and edits the control message of a session."""

from __future__ import annotations

from contextlib import suppress

import discord

from bot.messages import Messenger, retry_on_disconnect
from bot.voice.checks import VoiceChannel
from bot.voice.state import SessionState


class ControlMessage:
    def __init__(self, messages: Messenger, state: SessionState) -> None:
        self._messages = messages
        self._state = state

    def url(self, guild_id: int) -> str:
        state = self._state
        return f"https://discord.com/channels/{guild_id}/{state.control_channel_id}/{state.control_message_id}"

    async def post(self, channel: VoiceChannel, asked_in: discord.abc.Messageable, view: discord.ui.LayoutView) -> None:
        """Send it to the chat of the voice channel, or to the channel in which the user asked.

        A message of an earlier session is edited. Raises errors of Discord.
        """
        if self._state.control_message_id:
            await self.edit(view)
            return
        try:
            sent = await channel.send(view=view)
        except discord.Forbidden:
            sent = await asked_in.send(view=view)
        self._state.control_channel_id, self._state.control_message_id = sent.channel.id, sent.id

    async def edit(self, view: discord.ui.LayoutView) -> None:
        if self._state.control_message_id:
            message = self._messages.message(self._state.control_channel_id, self._state.control_message_id)
            with suppress(discord.HTTPException):  # deleted: the next `/play` posts another one
                await retry_on_disconnect(lambda: message.edit(view=view))
