"""One server's session: a voice connection, the current song, the queue and the control message."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import discord

from bot.database.voice import VoiceStore
from bot.links import is_public
from bot.messages.messenger import Messenger, retry_on_disconnect
from bot.voice import text
from bot.voice.checks import VoiceChannel, become_speaker, check_can_join, listeners_in
from bot.voice.connection import VoiceConnection, connect, recovers
from bot.voice.control import closed_view, control_view
from bot.voice.control_message import ControlMessage
from bot.voice.playback import Playback
from bot.voice.presses import apply_press
from bot.voice.state import SessionState
from engine.errors import InvalidState, StemifyError
from engine.service.service import StemService
from engine.service.stages import NowPlaying, Stages

log = logging.getLogger(__name__)

TICK_S = 0.5
EDIT_INTERVAL_S = 5.0
CHECK_INTERVAL_S = 5.0  # whether the song was deleted
ALONE_S = 120.0
_RECONNECTS = 3
_RESTARTS = 2  # of a player that ends too early, for one song


class VoiceSession:
    def __init__(
        self,
        channel: VoiceChannel,
        state: SessionState,
        service: StemService,
        stages: Stages,
        messages: Messenger,
        store: VoiceStore,
        on_end: Callable[[], None],
    ) -> None:
        self.channel = channel
        self.state = state
        self._stages = stages
        self._store = store
        self._on_end = on_end
        self._playback = Playback(service, state)
        self._client: VoiceConnection | None = None
        self._control = ControlMessage(messages, state)
        self._shown_at = self._checked_at = 0.0
        self._note = ""
        self._alone_since: float | None = None
        self._restarts = 0
        self._is_over = False
        self._lock = asyncio.Lock()  # one change of the stream at a time
        self._ticker: asyncio.Task[None] | None = None

    async def start(self, control_channel: discord.abc.Messageable) -> str:
        """Join, play and post the control message, or continue an earlier one; return its link.

        Raises `NotAllowed`, `InvalidState`, what `StemService.play` raises, and errors of Discord.
        """
        check_can_join(self.channel)
        await self._playback.open(self.state.position_s)
        try:
            await self._join()
            await self._control.post(self.channel, control_channel, self._view())
            await self._save()
        except BaseException:
            await self._leave()
            raise
        self._stages.open(self.state.stage_id, self._now_playing)
        self._ticker = asyncio.create_task(self._tick(), name=f"voice {self.channel.guild.id}")
        return self.control_url

    @property
    def control_url(self) -> str:
        return self._control.url(self.channel.guild.id)

    async def _join(self) -> None:
        """Connect and play. Raises `InvalidState`."""
        self._client = await connect(self.channel)
        self._note = await become_speaker(self.channel)
        mine = self.channel.voice_states.get(self.channel.guild.me.id)
        if mine is not None and (mine.mute or mine.suppress):
            self._playback.set_muted(True)
        self._client.play(self._playback.new_source())

    def _now_playing(self) -> NowPlaying | None:
        now = self._playback.now_playing()
        is_lost = self._client is None or not self._client.is_connected()
        return replace(now, is_paused=True) if now is not None and is_lost else now

    # Songs.

    async def _next_song(self) -> None:
        """Play the next song that can be played; end the session after the last."""
        while len(self.state.songs) > 1:
            self.state.next_song()
            self._restarts = 0
            try:
                await self._playback.open(0.0)
            except StemifyError as error:
                self._note = text.skipped(error.message)
                continue
            await self._show()
            await self._control.announce(text.now_playing(self.state.songs[0].title))
            return
        await self.stop(f"{self._note}\n{text.LAST_SONG}".strip())

    # Presses.

    async def press(self, action: str, interaction: discord.Interaction[discord.Client]) -> None:
        """Do what a button says, and show the result. Raises `StemifyError`."""
        state, stream = self.state, self._playback.stream
        assert stream is not None
        state.position_s = stream.position_s
        self._note = ""
        if action == "stop":
            await retry_on_disconnect(interaction.response.defer)
            await self.stop(text.stopped_by(interaction.user.id))
            return
        if action == "next":
            await retry_on_disconnect(interaction.response.defer)
            async with self._lock:
                await self._next_song()
            return
        if action.startswith(("key", "tempo")):
            await retry_on_disconnect(interaction.response.defer)
            await self._change_version(action)
            return
        apply_press(action, state, stream, is_muted=self._playback.is_muted)
        self._shown_at = time.monotonic()
        await retry_on_disconnect(lambda: interaction.response.edit_message(view=self._view()))
        await self._save()

    async def _change_version(self, action: str) -> None:
        """Play the song in another key or at another tempo, which may have to be made first."""
        async with self._lock:
            key, tempo = self.state.key, self.state.tempo
            steps = 1 if action.endswith("_up") else -1
            (self.state.change_key if action.startswith("key") else self.state.change_tempo)(steps)
            before = self._playback.stream
            assert before is not None
            self._note = text.CHANGING_VERSION
            await self._show()
            self._note = ""
            try:
                stream = await self._playback.open(before.position_s)
            except StemifyError:
                self.state.key, self.state.tempo = key, tempo
                raise
            stream.seek(before.position_s)  # it played on while the version was made
        await self._show()
        await self._save()

    async def add(self, control_channel: discord.abc.Messageable) -> None:
        """Show a song that was added to the queue. Raises `InvalidState` if the session has just ended."""
        if self._is_over:
            raise InvalidState(text.ENDED)
        await self._show()
        if not self.state.control_message_id:  # it was deleted
            await self._control.post(self.channel, control_channel, self._view())
        await self._save()

    # Events.

    async def on_own_state(self, after: discord.VoiceState) -> None:
        """Follow a change of the bot's own voice state by a moderator."""
        if after.channel is None:
            return  # the ticker notices
        self.channel = after.channel
        self.state.channel_id = after.channel.id
        is_muted = after.mute or after.suppress
        if is_muted != self._playback.is_muted and self._playback.stream is not None:
            self._playback.set_muted(is_muted)
            self._note = text.MUTED if is_muted else ""
            await self._show()
        await self._save()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                if not await self._is_in_channel():
                    await self.stop(text.DISCONNECTED)
                    return
                async with self._lock:
                    await self._check_stream()
                    await self._check_song()
                if self._is_alone_too_long():
                    await self.stop(text.ALONE)
                    return
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("a voice session failed")
                await self.stop(text.FAILED)
                return

    async def _is_in_channel(self) -> bool:
        """Whether the connection is up, or comes back: after a move by itself, after a failure by a new one."""
        client = self._client
        if client is None:
            return False
        if await recovers(client):
            return True
        if client.was_removed:
            return False
        log.warning("the voice connection ended; connecting again")
        if client.guild.voice_client is client:  # otherwise discord.py has left, and no answer to another request comes
            await client.disconnect(force=True)
        for _ in range(_RECONNECTS):
            with suppress(InvalidState):
                await self._join()
                return True
        return False

    async def _check_stream(self) -> None:
        stream = self._playback.stream
        assert stream is not None
        self.state.position_s = stream.position_s
        if stream.has_failed:
            if self._restarts >= _RESTARTS:
                self._note = text.PLAYER_FAILED
                await self._next_song()
                return
            self._restarts += 1
            self._note = text.PLAYER_RESTARTED
            await self._playback.open(stream.position_s)
            await self._show()
        elif stream.has_ended:
            await self._next_song()
        elif time.monotonic() - self._shown_at > EDIT_INTERVAL_S and not stream.is_paused:
            await self._show()
            await self._save()

    async def _check_song(self) -> None:
        """Leave a song that was deleted or has expired."""
        if self._is_over or time.monotonic() - self._checked_at < CHECK_INTERVAL_S:
            return
        self._checked_at = time.monotonic()
        if not await self._playback.is_available():
            self._note = text.DELETED
            await self._next_song()

    def _is_alone_too_long(self) -> bool:
        if listeners_in(self.channel):
            self._alone_since = None
            return False
        self._alone_since = self._alone_since or time.monotonic()
        return time.monotonic() - self._alone_since > ALONE_S

    # The message and the end.

    def _view(self) -> discord.ui.LayoutView:
        stream, stage_url = self._playback.stream, self._stages.url(self.state.stage_id)
        assert stream is not None
        shown_url = stage_url if is_public(stage_url) else None
        return control_view(self.state, stream.stems, stream.duration_s, self._note, stage_url=shown_url)

    async def _show(self) -> None:
        self._shown_at = time.monotonic()
        if not self._is_over:
            await self._control.edit(self._view())

    async def _save(self) -> None:
        if not self._is_over:
            await self._store.save(self.channel.guild.id, self.state.model_dump_json())

    async def stop(self, words: str) -> None:
        """Leave for good, and say why in the control message."""
        if self._is_over:
            return
        self._is_over = True
        self._on_end()
        self._stages.close(self.state.stage_id)
        ticker, self._ticker = self._ticker, None
        await self._store.delete(self.channel.guild.id)
        await self._leave()
        await self._control.edit(closed_view(words))
        if ticker is not None and ticker is not asyncio.current_task():
            ticker.cancel()

    async def suspend(self) -> None:
        """Leave before a restart, after which the session continues."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._playback.stream is not None:
            self.state.position_s = self._playback.stream.position_s
        await self._save()
        await self._leave()

    async def _leave(self) -> None:
        self._playback.source.is_open = False
        client, self._client = self._client, None
        with suppress(discord.DiscordException, OSError, TimeoutError):
            if client is not None and not client.was_removed:  # otherwise discord.py has cleaned up
                await client.disconnect(force=True)
        with suppress(OSError):
            await self._playback.close()
