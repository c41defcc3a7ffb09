"""The musical facts of a song as entity, as files of the result and as tags."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from engine.jobs.results import Music
from engine.music.facts import LEAST_CONFIDENCE, Facts
from engine.music.names import camelot, chord_name, key_name, short_key_name

_SLOWEST_BPM, _FASTEST_BPM = 30, 300


def write_music(facts: Facts, out: Path) -> Music:
    """Write `beats.json` and `chords.json` to the folder `out` as far as they are known; paths are the files' names."""
    rhythm, key = facts.rhythm, facts.key
    fields: dict[str, Any] = {}
    if rhythm is not None:
        tempo_bpm = round(rhythm.tempo_bpm, 2)
        others = (round(rhythm.tempo_bpm / 2, 2), round(rhythm.tempo_bpm * 2, 2))
        fields["tempo_bpm"] = tempo_bpm
        fields["tempo_confidence"] = round(rhythm.tempo_confidence, 2)
        fields["tempo_alternatives"] = tuple(bpm for bpm in others if _SLOWEST_BPM <= bpm <= _FASTEST_BPM)
    if key is not None:
        fields["key"] = key_name(key.tonic, key.is_minor)
        fields["camelot"] = camelot(key.tonic, key.is_minor)
        fields["key_confidence"] = round(key.confidence, 2)
    if rhythm is not None and rhythm.beat_confidence >= LEAST_CONFIDENCE:
        has_bars = rhythm.bar_confidence >= LEAST_CONFIDENCE
        beats = {
            "beats": _seconds(rhythm.beats_s),
            "confidence": round(rhythm.beat_confidence, 2),
            "downbeats": _seconds(rhythm.downbeats_s) if has_bars else None,
            "downbeatsConfidence": round(rhythm.bar_confidence, 2) if has_bars else None,
        }
        (out / "beats.json").write_text(json.dumps(beats))
        fields["beats_path"] = "beats.json"
        fields["beats_confidence"] = beats["confidence"]
    if facts.chords is not None:
        spelling = None if key is None else (key.tonic, key.is_minor)
        rows = [
            {
                "start": round(chord.start_s, 3),
                "end": round(chord.end_s, 3),
                "chord": chord_name(chord.root, chord.is_minor, key=spelling),
            }
            for chord in facts.chords
        ]
        confidence = round(facts.chords_confidence, 2)
        (out / "chords.json").write_text(json.dumps({"chords": rows, "confidence": confidence}))
        fields["chords_path"] = "chords.json"
        fields["chords_confidence"] = confidence
    return Music(**fields)


class MusicTags(TypedDict):
    tempo_bpm: float | None
    key: str | None  # its short name, such as "F#m"


def music_tags(facts: Facts) -> MusicTags:
    """Return the facts that the tags of a file hold."""
    rhythm, key = facts.rhythm, facts.key
    return {
        "tempo_bpm": None if rhythm is None else rhythm.tempo_bpm,
        "key": None if key is None else short_key_name(key.tonic, key.is_minor),
    }


def _seconds(times_s: Iterable[float]) -> list[float]:
    return [round(float(time), 3) for time in times_s]
