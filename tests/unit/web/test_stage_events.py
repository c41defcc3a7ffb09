"""When a page that follows a voice channel needs another event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.service.stages import NowPlaying
from engine.web.stage import plays_on

PLAYING = NowPlaying(
    job_id="1", title="Sunny", next_title=None, stems=("vocals",), muted=frozenset(), duration_s=60.0, position_s=10.0,
    is_paused=False, key=0, tempo=0.5, loop_s=None,
)  # fmt: skip


@pytest.mark.parametrize("position_s", [11.0, 11.03, 10.97])
def test_song_that_plays_on_needs_no_event(position_s: float) -> None:
    assert plays_on(PLAYING, replace(PLAYING, position_s=position_s), 2.0)


def test_end_of_the_song_needs_no_event() -> None:
    assert plays_on(PLAYING, replace(PLAYING, position_s=60.0), 200.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"position_s": 11.1}, {"position_s": 10.0}, {"title": "Rainy"}, {"next_title": "Rainy"}, {"is_paused": True},
        {"muted": frozenset({"vocals"})}, {"key": 1}, {"tempo": 1.0}, {"loop_s": (1.0, 2.0)}, {"job_id": "2"},
    ],
)  # fmt: skip
def test_change_needs_an_event(changes: dict[str, Any]) -> None:
    assert not plays_on(PLAYING, replace(PLAYING, **{"position_s": 11.0, **changes}), 2.0)


def test_paused_song_that_stands_needs_no_event() -> None:
    paused = replace(PLAYING, is_paused=True)
    assert plays_on(paused, paused, 100.0)
    assert not plays_on(paused, PLAYING, 0.0)
