"""Songs played by FluidSynth on Debian's soundfonts and sung by espeak-ng; both are needed only to make data.

Training uses the MIT fonts alone (FluidR3 and its relatives). Held-out songs use fonts, kits and voices that no
training song has.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.sample_song import compose, level
from engine.synth import SAMPLE_RATE, Audio, Hit, Note, pan_gains, reverb, samples
from training.sung import (
    HELD_OUT_LANGUAGES,
    HELD_OUT_VARIANTS,
    TRAINING_LANGUAGES,
    TRAINING_VARIANTS,
    sing,
)

SF2, SF3 = Path("/usr/share/sounds/sf2"), Path("/usr/share/sounds/sf3")
TRAINING_FONTS = (SF2 / "FluidR3_GM.sf2", SF3 / "FluidR3Mono_GM.sf3", SF3 / "MuseScore_General_Lite.sf3")
HELD_OUT_FONTS = (SF2 / "TimGM6mb.sf2", SF2 / "TimGM6mb.sf2", SF2 / "OPL-3_FM_128M.sf2")
HELD_OUT_KITS = (SF2 / "Black_Pearl_4_LV2.sf2", SF2 / "Red_Zeppelin_4_LV2.sf2")
KEYS = {
    "kick": 36,
    "snare": 38,
    "clap": 39,
    "rim": 37,
    "hat": 42,
    "open": 46,
    "ride": 51,
    "crash": 49,
    "tom1": 48,
    "tom2": 43,
}
KITS = (0, 0, 0, 8, 16, 24, 25, 32, 40)
BASSES = (32, 33, 33, 34, 35, 36, 37, 38, 39)
CHORDS = (
    0,
    1,
    2,
    4,
    5,
    6,
    7,
    11,
    16,
    17,
    18,
    19,
    21,
    24,
    25,
    26,
    27,
    28,
    29,
    30,
    48,
    49,
    50,
    51,
    61,
    62,
    63,
    88,
    89,
    90,
    95,
)
MELODIES = (
    0,
    8,
    9,
    10,
    11,
    12,
    13,
    24,
    25,
    26,
    29,
    30,
    40,
    41,
    42,
    46,
    56,
    57,
    60,
    64,
    65,
    66,
    68,
    71,
    73,
    75,
    80,
    81,
    104,
    105,
)


@dataclass(frozen=True)
class Part:
    """Notes of one MIDI channel."""

    channel: int
    program: int
    notes: Sequence[Note]


@dataclass(frozen=True)
class Sounds:
    """Who plays and who sings. `kits`: sampled real ones, which half the songs take if there are any."""

    fonts: tuple[Path, ...]
    kits: tuple[Path, ...]
    languages: tuple[str, ...]
    variants: tuple[str, ...]


TRAINING = Sounds(TRAINING_FONTS, (), TRAINING_LANGUAGES, TRAINING_VARIANTS)
HELD_OUT = Sounds(HELD_OUT_FONTS, HELD_OUT_KITS, HELD_OUT_LANGUAGES, HELD_OUT_VARIANTS)


def missing_programs() -> list[str]:
    """What has to be installed before these songs can be made (see training/README.md)."""
    missing = [name for name in ("fluidsynth", "espeak-ng") if shutil.which(name) is None]
    return missing + [str(font) for font in {*TRAINING_FONTS, *HELD_OUT_FONTS, *HELD_OUT_KITS} if not font.exists()]


def midi_file(parts: Sequence[Part]) -> bytes:
    """A type 0 MIDI file: 480 ticks a beat at 120 beats a minute, so 960 ticks a second."""
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


def play(parts: Sequence[Part], font: Path, n: int) -> Audio:
    """The parts through FluidSynth, dry: `(2, n)`."""
    with tempfile.TemporaryDirectory() as folder:
        tune, out = Path(folder) / "a.mid", Path(folder) / "a.raw"
        tune.write_bytes(midi_file(parts))
        options = ["-ni", "-g", "0.4", "-R", "0", "-C", "0", "-o", "synth.dynamic-sample-loading=1"]
        raw = ["-T", "raw", "-O", "float", "-E", "little"]
        command = ["fluidsynth", *options, *raw, "-r", str(SAMPLE_RATE), "-F", str(out), str(font), str(tune)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        audio = np.fromfile(out, "<f4").reshape(-1, 2).T
    return np.pad(audio, ((0, 0), (0, max(0, n - audio.shape[1]))))[:, :n].astype(np.float32)


def _drum_notes(hits: Sequence[Hit]) -> list[Note]:
    return [Note(hit.start_s, 0.2, KEYS[hit.piece], hit.velocity) for hit in hits]


def midi_song(
    seed: int, duration_s: float = 20.0, *, held_out: bool = False, sounds: Sounds | None = None
) -> dict[str, Audio]:
    """A song of a seed; `held_out` picks fonts, kits and voices that training never uses, `sounds` any."""
    from training.songs import balanced

    rng = np.random.default_rng(seed)
    score = compose(rng, duration_s)
    n = samples(duration_s)
    sounds = sounds or (HELD_OUT if held_out else TRAINING)
    fonts, kits = sounds.fonts, sounds.kits
    real_kit = bool(kits) and rng.uniform() < 0.5
    kit = kits[rng.integers(len(kits))] if real_kit else fonts[rng.integers(len(fonts))]
    # the sampled real kits are ordinary instruments of their fonts, not on MIDI's drum channel
    drums = (
        Part(0, 0, _drum_notes(score.drums)) if real_kit else Part(9, int(rng.choice(KITS)), _drum_notes(score.drums))
    )
    bass = Part(0, int(rng.choice(BASSES)), score.bass)
    chords = Part(1, int(rng.choice(CHORDS)), score.chords)
    melody = Part(2, int(rng.choice(MELODIES)), score.melody)
    stems = {
        "drums": play([drums], kit, n),
        "bass": play([bass], fonts[rng.integers(len(fonts))], n),
        "other": play([chords], fonts[rng.integers(len(fonts))], n),
    }
    if score.melody:
        solo = level(play([melody], fonts[rng.integers(len(fonts))], n), 0.08)
        stems["other"] = level(stems["other"], 0.1) + solo * pan_gains(float(rng.uniform(-0.6, 0.6)))[:, None]
    voice = f"{rng.choice(sounds.languages)}+{rng.choice(sounds.variants)}"
    sung = sing(score.vocals, voice, n, rng) * pan_gains(float(rng.uniform(-0.1, 0.1)))[:, None]
    if rng.uniform() < 0.25:  # a second take, a little later and elsewhere
        take = sing(
            [Note(a.start_s + 0.02, a.length_s, a.midi + 0.05, a.velocity) for a in score.vocals], voice, n, rng
        )
        sung = sung + 0.6 * take * pan_gains(float(rng.choice([-0.7, 0.7])))[:, None]
    stems["vocals"] = sung
    for name, wet in (("drums", 0.06), ("bass", 0.0), ("other", 0.25), ("vocals", 0.2)):
        stem = reverb(level(stems[name], 0.1), rng, decay_s=rng.uniform(0.3, 1.8), wet=wet * rng.uniform(0.2, 1.5))
        if rng.uniform() < 0.5:  # light compression
            drive = rng.uniform(1, 4)
            stem = np.asarray(np.tanh(stem * drive) / drive, np.float32)
        stems[name] = stem
    return balanced(stems, rng)
