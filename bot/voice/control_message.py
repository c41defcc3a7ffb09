"""Posts and edits the control message of a session."""

from __future__ import annotations

import logging

import aiohttp
import discord

from bot.messages.messenger import Messenger, retry_on_disconnect
from bot.voice.checks import VoiceChannel
from bot.voice.state import SessionState
from bot.voice.text import needs_to_write
from engine.errors import NotAllowed

log = logging.getLogger(__name__)


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
            try:
                sent = await asked_in.send(view=view)
            except discord.Forbidden:
                raise NotAllowed(needs_to_write(channel.id)) from None
        self._state.control_channel_id, self._state.control_message_id = sent.channel.id, sent.id

    async def announce(self, words: str) -> None:
        """Send a short message below it, without a notification."""
        control = self._messages.message(self._state.control_channel_id, self._state.control_message_id)
        try:
            await control.channel.send(words, silent=True)
        except (discord.HTTPException, aiohttp.ClientError, OSError) as error:
            log.info("could not announce a song: %s", type(error).__name__)

    async def edit(self, view: discord.ui.LayoutView) -> None:
        if self._state.control_message_id:
            message = self._messages.message(self._state.control_channel_id, self._state.control_message_id)
            try:
                await retry_on_disconnect(lambda: message.edit(view=view))
            except discord.NotFound:
                self._state.control_message_id = 0  # the next `/play` posts another one
            except (discord.HTTPException, aiohttp.ClientError, OSError) as error:
                log.info("could not edit a control message: %s", type(error).__name__)
