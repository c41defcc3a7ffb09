"""Write type 0 MIDI files for FluidSynth and TiMidity++."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.synth.synthesizer import Hit, Note

DRUM_CHANNEL = 9
KEYS = {
    "kick": 36, "snare": 38, "clap": 39, "rim": 37, "hat": 42, "open": 46, "ride": 51, "crash": 49,
    "tom1": 48, "tom2": 43,
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Notes of one MIDI channel."""

    channel: int
    program: int
    notes: Sequence[Note]


def drum_notes(hits: Sequence[Hit]) -> list[Note]:
    return [Note(hit.start_s, 0.2, KEYS[hit.piece], hit.velocity) for hit in hits]


def midi_file(parts: Sequence[Part]) -> bytes:
    """Return a MIDI file of 480 ticks per beat at 120 beats per minute: 960 ticks per second."""
    events: list[tuple[int, bytes]] = []
    for part in parts:
        events.append((0, bytes([0xC0 | part.channel, part.program])))
        for note in part.notes:
            key, velocity = int(np.clip(note.midi, 0, 127)), int(np.clip(note.velocity * 115, 1, 127))
            start = int(note.start_s * 960)
            events.append((start, bytes([0x90 | part.channel, key, velocity])))
            events.append((start + max(20, int(note.length_s * 960)), bytes([0x80 | part.channel, key, 0])))
    track, now = bytearray(), 0
    for tick, message in sorted(events, key=lambda event: event[0]):
        track += _variable(tick - now) + message
        now = tick
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 480) + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def _variable(number: int) -> bytes:
    out = bytes([number & 0x7F])
    while number := number >> 7:
        out = bytes([number & 0x7F | 0x80]) + out
    return out
