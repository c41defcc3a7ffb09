"""The song that a session plays: its stream, and how it sounds."""

from __future__ import annotations

from datetime import UTC, datetime

from bot.cards.result_facts import has_expired
from bot.voice.presses import apply_loop
from bot.voice.source import StreamSource
from bot.voice.state import QueuedSong, SessionState
from bot.voice.text import ENDED
from engine.errors import InvalidState, NotFound, StemifyError
from engine.service.service import StemService, VersionRequest, VoiceStream
from engine.service.stages import NowPlaying


class Playback:
    def __init__(self, service: StemService, state: SessionState) -> None:
        self.stream: VoiceStream | None = None
        self.source = StreamSource()
        self.is_muted = False  # by the server
        self._service = service
        self._state = state
        self._song: QueuedSong | None = None  # of the stream, as the state is ahead while another one is opened
        self._version = VersionRequest()
        self._is_closed = False

    async def open(self, position_s: float) -> VoiceStream:
        """Play the first song from a position with the current sound, and end the stream before.

        Raises what `StemService.play` raises, and `InvalidState` if the session has ended in the meantime.
        """
        song, version = self._state.songs[0], self._state.version
        stream = await self._service.play(song.job_id, version, start_s=position_s, by=song.owner)
        if self._is_closed:
            await stream.close()
            raise InvalidState(ENDED)
        stream.set_gains(dict.fromkeys(self._state.muted, 0.0))
        stream.set_volume(self._state.volume)
        stream.set_paused(self._state.is_paused or self.is_muted)
        before, self.stream, self.source.stream = self.stream, stream, stream
        self._song, self._version = song, version
        apply_loop(self._state, stream)
        if before is not None:
            await before.close()
        return stream

    async def is_available(self) -> bool:
        """Return whether the song still exists and has not expired."""
        if self._song is None:
            return True
        try:
            view = await self._service.get(self._song.job_id)
        except NotFound:
            return False
        except StemifyError:  # the database does not respond
            return True
        return not has_expired(view, datetime.now(UTC))

    def new_source(self) -> StreamSource:
        """Return a source for another connection: discord.py closes that of a connection that ended."""
        self.source = StreamSource()
        self.source.stream = self.stream
        return self.source

    def set_muted(self, is_muted: bool) -> None:
        """Pause while the server mutes the bot."""
        self.is_muted = is_muted
        if self.stream is not None:
            self.stream.set_paused(self._state.is_paused or is_muted)

    def now_playing(self) -> NowPlaying | None:
        stream, song, state = self.stream, self._song, self._state
        if stream is None or song is None:
            return None
        following = state.songs[1].title if len(state.songs) > 1 else None
        start_s, end_s = state.loop_start_s, state.loop_end_s
        return NowPlaying(
            job_id=song.job_id,
            title=song.title,
            next_title=following,
            stems=stream.stems,
            muted=frozenset(state.muted),
            duration_s=stream.duration_s,
            position_s=min(stream.position_s, stream.duration_s),
            is_paused=stream.is_paused,
            key=round(self._version.key),
            tempo=self._version.tempo,
            loop_s=None if start_s is None or end_s is None else (start_s, end_s),
        )

    async def close(self) -> None:
        """End the stream for good. Repeated calls are safe."""
        self._is_closed, self.source.is_open = True, False
        stream, self.stream, self.source.stream = self.stream, None, None
        if stream is not None:
            await stream.close()
