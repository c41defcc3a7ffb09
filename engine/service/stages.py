"""What voice channels play, for the pages that follow them.

The front end opens a stage for each session, with a function that returns what is played. A link to a stage gives
access to titles, waveforms, beats and chords, not to files.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from engine.clock import utc_now
from engine.errors import NotFound
from engine.service.links import Links

_LINK_LIFETIME = timedelta(days=7)


@dataclass(frozen=True)
class NowPlaying:
    """What is heard now. Times are those of the song at its own tempo."""

    job_id: str
    title: str
    next_title: str | None
    stems: tuple[str, ...]
    muted: frozenset[str]
    duration_s: float
    position_s: float
    is_paused: bool
    key: int
    """In semitones above that of the song."""
    tempo: float
    loop_s: tuple[float, float] | None


Look = Callable[[], NowPlaying | None]
"""Returns what is heard; None while there is nothing, as before a restart."""


class Stages:
    """The open stages by id. An id is a secret of 128 bits."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._looks: dict[str, Look] = {}

    def open(self, stage_id: str, look: Look) -> None:
        self._looks[stage_id] = look

    def close(self, stage_id: str) -> None:
        """End a stage; its pages say so. Repeated calls are safe."""
        self._looks.pop(stage_id, None)

    def now_playing(self, stage_id: str) -> NowPlaying | None:
        """Return what is heard. Raises `NotFound` if the stage is not open."""
        look = self._looks.get(stage_id)
        if look is None:
            raise NotFound("This stage has ended.")
        return look()

    def url(self, stage_id: str) -> str:
        """Return a link to the page of a stage."""
        return self._links.stage(stage_id, utc_now() + _LINK_LIFETIME)


def new_stage_id() -> str:
    return secrets.token_urlsafe(16)
