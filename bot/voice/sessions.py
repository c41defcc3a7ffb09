"""The sessions of all servers, at most one in each."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import discord

from bot.database.voice import VoiceStore
from bot.messages.messenger import Messenger
from bot.rules.server_rules import ServerRules
from bot.voice import text
from bot.voice.checks import VoiceChannel, channel_of, check_can_join, listeners_in
from bot.voice.session import VoiceSession
from bot.voice.state import QueuedSong, SessionState
from engine.errors import InvalidState, NotAllowed, NotFound, StemifyError
from engine.service.service import StemService
from engine.service.stages import Stages

log = logging.getLogger(__name__)

MAX_SONGS = 25
MAX_SESSIONS = 20  # each has a child process


class VoiceSessions:
    def __init__(
        self,
        client: discord.Client,
        store: VoiceStore,
        service: StemService,
        stages: Stages,
        messages: Messenger,
        rules: ServerRules,
    ) -> None:
        self._client = client
        self._store = store
        self._service = service
        self._stages = stages
        self._messages = messages
        self._rules = rules
        self._sessions: dict[int, VoiceSession] = {}
        self._starting: set[int] = set()

    async def play(
        self, guild: discord.Guild, user_id: int, song: QueuedSong, control_channel: discord.abc.Messageable
    ) -> str:
        """Play a song in the channel in which the user is, or add it to the queue there; return the answer.

        Raises `InvalidState`, `NotAllowed`, what `StemService.play` raises, and errors of Discord.
        """
        channel = channel_of(guild, user_id)
        if channel is None:
            raise InvalidState(text.JOIN_FIRST)
        session = self._sessions.get(guild.id)
        if session is not None:
            if session.channel.id != channel.id:
                raise InvalidState(text.playing_elsewhere(session.channel.id))
            if len(session.state.songs) >= MAX_SONGS:
                raise InvalidState(text.queue_is_full(MAX_SONGS))
            session.state.songs.append(song)
            await session.add(control_channel)
            return text.queued(session.control_url)
        if guild.id in self._starting:
            raise InvalidState(text.JOINING)
        if len(self._sessions) + len(self._starting) >= MAX_SESSIONS:
            raise InvalidState(text.TOO_MANY_SERVERS)
        check_can_join(channel)
        state = SessionState(channel_id=channel.id, songs=[song])
        return text.playing(await self._start(channel, state, control_channel))

    async def _start(self, channel: VoiceChannel, state: SessionState, control_channel: discord.abc.Messageable) -> str:
        guild_id = channel.guild.id
        session = VoiceSession(
            channel,
            state,
            self._service,
            self._stages,
            self._messages,
            self._store,
            on_end=lambda: self._forget(guild_id),
        )
        self._starting.add(guild_id)
        try:
            url = await session.start(control_channel)
            self._sessions[guild_id] = session
        finally:
            self._starting.discard(guild_id)
        return url

    def _forget(self, guild_id: int) -> None:
        self._sessions.pop(guild_id, None)

    async def press(self, interaction: discord.Interaction[Any], action: str) -> None:
        """Run a button of a control message. Raises `StemifyError`."""
        session = self._sessions.get(interaction.guild_id or 0)
        message_id = interaction.message.id if interaction.message is not None else 0
        if session is None or session.state.control_message_id != message_id:
            raise NotFound(text.ENDED)
        if interaction.user.id not in session.channel.voice_states:
            raise NotAllowed(text.must_join(session.channel.id))
        self._rules.check_may_press(interaction, session.state.songs[0].owner)
        await session.press(action, interaction)

    async def on_own_state(self, guild_id: int, after: discord.VoiceState) -> None:
        if (session := self._sessions.get(guild_id)) is not None:
            await session.on_own_state(after)

    async def resume(self) -> None:
        """Continue the sessions of an earlier process or connection whose channels still have listeners."""
        states = await self._store.states()
        await asyncio.gather(
            *(self._resume(guild_id, saved) for guild_id, saved in states.items() if guild_id not in self._sessions)
        )

    async def _resume(self, guild_id: int, saved: str) -> None:
        if guild_id in self._starting:
            return
        try:
            state = SessionState.model_validate_json(saved)
            guild = self._client.get_guild(guild_id)
            channel = None if guild is None else guild.get_channel(state.channel_id)
            if guild is None or not isinstance(channel, (discord.VoiceChannel, discord.StageChannel)):
                await self._store.delete(guild_id)
                return
            if not listeners_in(channel):
                await self._store.delete(guild_id)
                return
            await self._start(channel, state, channel)
        except (StemifyError, discord.DiscordException, ValueError) as error:
            log.warning("a voice session could not be resumed: %s", error)
            await self._store.delete(guild_id)

    async def close(self) -> None:
        """Leave all channels; the sessions continue after the next start."""
        sessions, self._sessions = list(self._sessions.values()), {}
        await asyncio.gather(*(session.suspend() for session in sessions), return_exceptions=True)
