"""One server's session: a voice connection, the current song, the queue and the control message."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import discord

from bot.database.voice import VoiceStore
from bot.messages.messenger import Messenger, retry_on_disconnect
from bot.voice.checks import VoiceChannel, become_speaker, check_can_join, listeners_in
from bot.voice.connection import CONNECT_TIMEOUT_S, VoiceConnection, connect
from bot.voice.control import closed_view, control_view
from bot.voice.control_message import ControlMessage
from bot.voice.presses import apply_loop, apply_press
from bot.voice.source import StreamSource
from bot.voice.state import SessionState
from engine.errors import InvalidState, StemifyError
from engine.service.service import StemService, VoiceStream

log = logging.getLogger(__name__)

TICK_S = 0.5
EDIT_INTERVAL_S = 5.0
ALONE_S = 120.0
ENDED = "This player has ended. Use `/play` to start another one."
_RECONNECTS = 3
_RESTARTS = 2  # of a player that ends too early, for one song


class VoiceSession:
    def __init__(
        self,
        channel: VoiceChannel,
        state: SessionState,
        service: StemService,
        messages: Messenger,
        store: VoiceStore,
        on_end: Callable[[], None],
    ) -> None:
        self.channel = channel
        self.state = state
        self._service = service
        self._store = store
        self._on_end = on_end
        self._source = StreamSource()
        self._stream: VoiceStream | None = None
        self._client: VoiceConnection | None = None
        self._control = ControlMessage(messages, state)
        self._shown_at = 0.0
        self._note = ""
        self._alone_since: float | None = None
        self._restarts = 0
        self._is_muted = False  # by the server
        self._is_over = False
        self._lock = asyncio.Lock()  # one change of the stream at a time
        self._ticker: asyncio.Task[None] | None = None

    async def start(self, control_channel: discord.abc.Messageable) -> str:
        """Join, play and post the control message, or continue an earlier one; return its link.

        Raises `NotAllowed`, `InvalidState`, what `StemService.play` raises, and errors of Discord.
        """
        check_can_join(self.channel)
        await self._open_stream(self.state.position_s)
        try:
            self._client = await connect(self.channel)
            self._note = await become_speaker(self.channel)
            self._notice_mute()
            self._play()
            await self._control.post(self.channel, control_channel, self._view())
            await self._save()
        except BaseException:
            await self._leave()
            raise
        self._ticker = asyncio.create_task(self._tick(), name=f"voice {self.channel.guild.id}")
        return self.control_url

    @property
    def control_url(self) -> str:
        return self._control.url(self.channel.guild.id)

    def _notice_mute(self) -> None:
        """Pause if the bot was muted before it joined, or may not speak on a stage."""
        mine = self.channel.voice_states.get(self.channel.guild.me.id)
        if mine is not None and self._stream is not None and (mine.mute or mine.suppress):
            self._is_muted = True
            self._stream.set_paused(True)

    # Songs.

    async def _open_stream(self, position_s: float) -> VoiceStream:
        """Play the first song from a position with the current sound, and end the stream before."""
        song = self.state.songs[0]
        stream = await self._service.play(song.job_id, self.state.version, start_s=position_s, by=song.owner)
        if self._is_over:  # stopped while a version was made
            await stream.close()
            raise InvalidState(ENDED)
        stream.set_gains(dict.fromkeys(self.state.muted, 0.0))
        stream.set_volume(self.state.volume)
        stream.set_paused(self.state.is_paused or self._is_muted)
        before, self._stream, self._source.stream = self._stream, stream, stream
        apply_loop(self.state, stream)
        if before is not None:
            await before.close()
        return stream

    async def _next_song(self) -> None:
        """Play the next song that can be played; end the session after the last."""
        while len(self.state.songs) > 1:
            self.state.next_song()
            self._restarts = 0
            try:
                await self._open_stream(0.0)
            except StemifyError as error:
                self._note = f"Skipped a song: {error.message}"
                continue
            await self._show()
            return
        await self.stop(f"{self._note}\nThat was the last song. Use `/play` to play another one.".strip())

    # Presses.

    async def press(self, action: str, interaction: discord.Interaction[discord.Client]) -> None:
        """Do what a button says, and show the result. Raises `StemifyError`."""
        assert self._stream is not None
        state, stream = self.state, self._stream
        state.position_s = stream.position_s
        self._note = ""
        if action == "stop":
            await retry_on_disconnect(interaction.response.defer)
            await self.stop(f"Stopped by <@{interaction.user.id}>.")
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
        apply_press(action, state, stream, is_muted=self._is_muted)
        self._shown_at = time.monotonic()
        await retry_on_disconnect(lambda: interaction.response.edit_message(view=self._view()))
        await self._save()

    async def _change_version(self, action: str) -> None:
        """Play the song in another key or at another tempo, which may have to be made first."""
        async with self._lock:
            key, tempo = self.state.key, self.state.tempo
            steps = 1 if action.endswith("_up") else -1
            (self.state.change_key if action.startswith("key") else self.state.change_tempo)(steps)
            before = self._stream
            assert before is not None
            self._note = "Changing the key or the tempo…"
            await self._show()
            self._note = ""
            try:
                stream = await self._open_stream(before.position_s)
            except StemifyError:
                self.state.key, self.state.tempo = key, tempo
                raise
            stream.seek(before.position_s)  # it played on while the version was made
        await self._show()
        await self._save()

    async def add(self, control_channel: discord.abc.Messageable) -> None:
        """Show a song that was added to the queue. Raises `InvalidState` if the session has just ended."""
        if self._is_over:
            raise InvalidState(ENDED)
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
        if is_muted != self._is_muted and self._stream is not None:
            self._is_muted = is_muted
            self._stream.set_paused(self.state.is_paused or is_muted)
            self._note = "Paused: I am muted by the server." if is_muted else ""
            await self._show()
        await self._save()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                if self._client is None or not await self._is_in_channel():
                    await self.stop("I was disconnected from the voice channel.")
                    return
                async with self._lock:
                    await self._check_stream()
                if self._is_alone_too_long():
                    await self.stop("Everyone has left, so I left too.")
                    return
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("a voice session failed")
                await self.stop("Something went wrong. Use `/play` to start again.")
                return

    async def _is_in_channel(self) -> bool:
        """Whether the connection is up, or comes back: after a move by itself, after a failure by a new one."""
        client = self._client
        assert client is not None
        for _ in range(round(CONNECT_TIMEOUT_S / TICK_S)):
            if client.was_removed or client.is_connected() or self.channel.guild.voice_client is not client:
                break
            await asyncio.sleep(TICK_S)
        if client.is_connected() or client.was_removed:
            return not client.was_removed
        log.warning("the voice connection ended; connecting again")
        await client.disconnect(force=True)
        for _ in range(_RECONNECTS):
            with suppress(InvalidState):
                self._client = await connect(self.channel)
                await become_speaker(self.channel)
                self._notice_mute()
                self._play()
                return True
        return False

    def _play(self) -> None:
        assert self._client is not None
        self._source = StreamSource()  # discord.py closes the one of a connection that ended
        self._source.stream = self._stream
        self._client.play(self._source)

    async def _check_stream(self) -> None:
        stream = self._stream
        assert stream is not None
        self.state.position_s = stream.position_s
        if stream.has_failed:
            if self._restarts >= _RESTARTS:
                self._note = "The player failed repeatedly."
                await self._next_song()
                return
            self._restarts += 1
            self._note = "The player failed and was restarted."
            await self._open_stream(stream.position_s)
            await self._show()
        elif stream.has_ended:
            await self._next_song()
        elif time.monotonic() - self._shown_at > EDIT_INTERVAL_S and not stream.is_paused:
            await self._show()
            await self._save()

    def _is_alone_too_long(self) -> bool:
        if listeners_in(self.channel):
            self._alone_since = None
            return False
        self._alone_since = self._alone_since or time.monotonic()
        return time.monotonic() - self._alone_since > ALONE_S

    # The message and the end.

    def _view(self) -> discord.ui.LayoutView:
        assert self._stream is not None
        return control_view(self.state, self._stream.stems, self._stream.duration_s, self._note)

    async def _show(self) -> None:
        self._shown_at = time.monotonic()
        if not self._is_over:
            await self._control.edit(self._view())

    async def _save(self) -> None:
        if not self._is_over:
            await self._store.save(self.channel.guild.id, self.state.model_dump_json())

    async def stop(self, text: str) -> None:
        """Leave for good, and say why in the control message."""
        if self._is_over:
            return
        self._is_over = True
        self._on_end()
        ticker, self._ticker = self._ticker, None
        await self._store.delete(self.channel.guild.id)
        await self._leave()
        await self._control.edit(closed_view(text))
        if ticker is not None and ticker is not asyncio.current_task():
            ticker.cancel()

    async def suspend(self) -> None:
        """Leave before a restart, after which the session continues."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._stream is not None:
            self.state.position_s = self._stream.position_s
        await self._save()
        await self._leave()

    async def _leave(self) -> None:
        self._source.is_open = False
        client, self._client = self._client, None
        stream, self._stream, self._source.stream = self._stream, None, None
        steps: list[Callable[[], Awaitable[None]]] = []
        if client is not None and not client.was_removed:  # otherwise discord.py has cleaned up
            steps.append(lambda: client.disconnect(force=True))
        steps += [] if stream is None else [stream.close]
        for step in steps:
            with suppress(discord.DiscordException, OSError, TimeoutError):
                await step()
