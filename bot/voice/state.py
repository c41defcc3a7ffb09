"""What a session plays: songs, position, and how they sound."""

from __future__ import annotations

from pydantic import BaseModel, Field

from engine.service.service import VersionRequest
from engine.service.stages import new_stage_id

VOLUME_STEP, MAX_VOLUME = 0.2, 1.4
MAX_KEY = 6
TEMPO_STEP, MIN_TEMPO, MAX_TEMPO = 0.1, 0.5, 1.5


class QueuedSong(BaseModel):
    job_id: str
    title: str
    owner: str
    """Who asked for it."""


class SessionState(BaseModel):
    """The first of the `songs` is played, the others wait."""

    channel_id: int
    control_channel_id: int = 0
    control_message_id: int = 0
    songs: list[QueuedSong]
    position_s: float = 0.0
    is_paused: bool = False
    muted: set[str] = Field(default_factory=set)
    """Stems that are not heard."""
    volume: float = 1.0
    key: int = 0
    tempo: float = 1.0
    loop_start_s: float | None = None
    loop_end_s: float | None = None
    stage_id: str = Field(default_factory=new_stage_id)

    @property
    def version(self) -> VersionRequest:
        return VersionRequest(key=float(self.key), tempo=self.tempo)

    def change_volume(self, steps: int) -> None:
        self.volume = round(min(MAX_VOLUME, max(0.0, self.volume + steps * VOLUME_STEP)), 1)

    def change_key(self, steps: int) -> None:
        self.key = min(MAX_KEY, max(-MAX_KEY, self.key + steps))

    def change_tempo(self, steps: int) -> None:
        self.tempo = round(min(MAX_TEMPO, max(MIN_TEMPO, self.tempo + steps * TEMPO_STEP)), 1)

    def press_loop(self, position_s: float) -> None:
        """Mark the start of a part, then its end, then repeat no longer."""
        if self.loop_start_s is None:
            self.loop_start_s = position_s
        elif self.loop_end_s is None and position_s > self.loop_start_s + 0.5:
            self.loop_end_s = position_s
        else:
            self.clear_loop()

    def clear_loop(self) -> None:
        self.loop_start_s = self.loop_end_s = None

    def next_song(self) -> None:
        """Remove the first song; how it sounded is kept, except for the loop."""
        self.songs.pop(0)
        self.position_s = 0.0
        self.clear_loop()
