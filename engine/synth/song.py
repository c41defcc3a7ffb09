"""Generate the demo's song, so that its true stems are known and no download is needed.

`compose` writes a short song (drums, bass, chords, melody and vocals), and `render` plays it with
`engine.synth.synthesizer`. The training of the embedded model in `training/` uses both with other seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.synth.synthesizer import (
    SAMPLE_RATE,
    Audio,
    Hit,
    Note,
    Singer,
    Timbre,
    drum_kit,
    pan_gains,
    render_drums,
    render_notes,
    render_voice,
    reverb,
    samples,
)
from engine.synth.truth import MusicTruth, truth_of

STEMS = ("drums", "bass", "other", "vocals")
SAMPLE_SONG_SEED = 20_000_017  # training songs have seeds below 10 000 000
PROGRESSIONS = (
    (0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (0, 3, 4, 3), (1, 4, 0, 0), (0, 0, 3, 4),
    (5, 4, 3, 4), (0, 6, 3, 0), (3, 4, 2, 5), (0, 2, 3, 4),
)  # fmt: skip
# Sixteen steps per bar for kick, snare and hat. Upper case is an accent.
GROOVES: dict[str, tuple[str, str, str]] = {
    "rock": ("X-------X-x-----", "----X-------X---", "x-x-x-x-x-x-x-x-"),
    "pop": ("X-----x-X-------", "----X-------X---", "x-x-x-x-x-x-x-x-"),
    "house": ("X---X---X---X---", "----X-------X---", "--x---x---x---x-"),
    "funk": ("X-x---x---X--x--", "----X--x-x--X--x", "xxxxxxxxxxxxxxxx"),
    "half": ("X-----x---x-----", "--------X-------", "x-x-x-xxx-x-x-xx"),
    "breaks": ("X-x-------xx----", "----X--x-x--X--x", "x-x-x-x-x-x-x-x-"),
    "ballad": ("X---------x-----", "----X-------X---", "x---x---x---x---"),
    "march": ("X---x---X---x---", "x-xxX-xxx-xxX-x-", "----------------"),
    "trap": ("X-----x--x------", "--------X-------", "x-xxx-x-xxx-x-xx"),
    "latin": ("X--x--x-X--x--x-", "---x--x----x--x-", "x-xxx-xxx-xxx-xx"),
}
At = Callable[[int, float], float]  # (bar, step) to seconds
MAJOR, MINOR, DORIAN = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10)


@dataclass(frozen=True)
class Score:
    """The notes of every instrument. `chords` and `melody` form the stem `other`."""

    duration_s: float
    truth: MusicTruth
    drums: tuple[Hit, ...]
    bass: tuple[Note, ...]
    chords: tuple[Note, ...]
    melody: tuple[Note, ...]
    vocals: tuple[Note, ...]


@dataclass(frozen=True)
class Song:
    """Stems by name, each `(2, samples)` at 44.1 kHz, and the mix, which is exactly their sum."""

    stems: dict[str, Audio]
    mix: Audio
    truth: MusicTruth
    sample_rate: int = SAMPLE_RATE


def sample_song(seed: int = SAMPLE_SONG_SEED, duration_s: float = 20.0) -> Song:
    """Generate the song of a seed; the default one is not in the training data of the embedded model."""
    rng = np.random.default_rng(seed)
    score = compose(rng, duration_s)
    stems = render(score, rng)
    gain = 0.9 / (np.abs(sum(stems.values())).max() + 1e-9)
    stems = {name: (stem * gain).astype(np.float32) for name, stem in stems.items()}
    return Song(stems, np.sum([stems[name] for name in STEMS], axis=0, dtype=np.float32), score.truth)


def compose(rng: np.random.Generator, duration_s: float) -> Score:
    """Compose a random song: key, tempo, progression, groove, bass line, chord style, vocal phrases."""
    bar_s = 240.0 / rng.uniform(72, 168)
    scale = (MAJOR, MINOR, DORIAN)[rng.integers(3)]
    key = int(rng.integers(0, 12))
    progression = PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
    groove_name = str(rng.choice(sorted(GROOVES)))
    groove = GROOVES[groove_name]
    swing = float(rng.choice([0.0, 0.0, 0.0, 0.16, 0.3]))
    bars = int(np.ceil(duration_s / bar_s))
    step_s = bar_s / 16

    def degree(number: int, octave: int) -> int:
        return 12 * octave + key + scale[number % 7] + 12 * (number // 7)

    def at(bar: int, step: float) -> float:
        late = swing * step_s if int(step) % 4 == 2 else 0.0
        return max(0.0, bar * bar_s + step * step_s + late + rng.normal(0, 0.003))

    bass_style, chord_style = int(rng.integers(5)), int(rng.integers(5))
    bass_octave = int(rng.choice([2, 2, 3])) if key < 5 else 2
    drums: list[Hit] = []
    bass: list[Note] = []
    chords: list[Note] = []
    melody: list[Note] = []
    vocals: list[Note] = []
    sung = int(rng.integers(7, 14))
    for bar in range(bars):
        root = progression[bar % 4]
        drums += _drum_bar(rng, groove, at, bar)
        bass += _bass_bar(rng, bass_style, [degree(root + i, bass_octave) for i in (0, 2, 4, 7)], at, bar, step_s)
        voicing = [degree(root + i, 5 if key < 7 else 4) for i in (0, 2, 4, 6)[: 3 + int(rng.uniform() < 0.3)]]
        chords += _chord_bar(rng, chord_style, voicing, at, bar, step_s)
        step = float(rng.choice([0, 0, 2, 4]))
        resting = bar % 4 == 3 and rng.uniform() < 0.6
        while step < 15 and not resting:
            length = float(rng.choice([1, 2, 2, 3, 4, 4, 6, 8]))
            sung = int(np.clip(sung + rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3]), 4, 16))
            pitch = degree(sung, 4) if key < 6 else degree(sung, 3)
            if rng.uniform() < 0.88:
                held_s = max(0.08, min(length, 16 - step) * step_s * rng.uniform(0.75, 1.0))
                vocals.append(Note(at(bar, step), held_s, pitch, rng.uniform(0.6, 1)))
            step += length
        if resting or rng.uniform() < 0.25:
            for place in range(0, 16, int(rng.choice([1, 2, 4]))):
                if rng.uniform() < 0.7:
                    melody.append(Note(at(bar, place), 1.8 * step_s, degree(int(rng.integers(4, 15)), 5), 0.7))
    truth = truth_of(
        bar_s=bar_s, groove=groove_name, tonic=key, scale=scale, progression=progression, duration_s=duration_s
    )
    return Score(duration_s, truth, tuple(drums), tuple(bass), tuple(chords), tuple(melody), tuple(vocals))


def _drum_bar(rng: np.random.Generator, groove: tuple[str, str, str], at: At, bar: int) -> list[Hit]:
    hits = []
    back = "clap" if rng.uniform() < 0.1 else "snare"
    ride = "ride" if rng.uniform() < 0.15 else "hat"
    filling = bar % 4 == 3 and rng.uniform() < 0.4
    for piece, row in zip(("kick", back, ride), groove, strict=True):
        for step, mark in enumerate(row):
            if mark == "-" or (filling and step >= 12 and piece != "kick"):
                continue
            if mark == "X" or rng.uniform() < 0.9:
                velocity = rng.uniform(0.85, 1.0) if mark == "X" else rng.uniform(0.4, 0.8)
                hits.append(Hit(at(bar, step), piece, velocity))
    if filling:
        pieces = rng.choice(["snare", "tom1", "tom2", "snare"], 4)
        hits += [Hit(at(bar, 12 + i), str(piece), rng.uniform(0.6, 1)) for i, piece in enumerate(pieces)]
    if bar % 4 == 0 and rng.uniform() < 0.5:
        hits.append(Hit(at(bar, 0), "crash", 0.8))
    if rng.uniform() < 0.3:
        hits.append(Hit(at(bar, 14), "open", 0.7))
    return hits


def _bass_bar(rng: np.random.Generator, style: int, tones: list[int], at: At, bar: int, step_s: float) -> list[Note]:
    root, third, fifth, octave = tones
    if style == 0:
        line = [(0.0, 15.0, root)]
    elif style == 1:
        line = [(i * 2.0, 1.8, root if rng.uniform() < 0.85 else fifth) for i in range(8)]
    elif style == 2:
        line = [(i * 4.0, 3.7, note) for i, note in enumerate((root, third, fifth, rng.choice([octave, third])))]
    elif style == 3:
        line = [(i * 2.0, 1.5, root if i % 2 == 0 else octave) for i in range(8)]
    else:
        line = [(float(i), rng.uniform(0.8, 2.5), root if rng.uniform() < 0.6 else int(rng.choice(tones)))
                for i in range(16) if i == 0 or rng.uniform() < 0.4]  # fmt: skip
    return [Note(at(bar, step), length * step_s, int(note), rng.uniform(0.7, 1.0)) for step, length, note in line]


def _chord_bar(rng: np.random.Generator, style: int, voicing: list[int], at: At, bar: int, step_s: float) -> list[Note]:
    if style == 0:
        hits = [(0.0, 15.5)]
    elif style == 1:
        hits = [(2.0, 1.5), (6.0, 1.5), (10.0, 1.5), (14.0, 1.5)]
    elif style == 2:
        hits = [(i * 4.0, 3.6) for i in range(4)]
    elif style == 3:
        order = list(voicing) * 6
        return [Note(at(bar, i), 1.9 * step_s, order[i], rng.uniform(0.6, 0.9)) for i in range(16)]
    else:
        hits = [(float(i), 1.6) for i in range(16) if i in (0, 3, 6, 10, 12) and rng.uniform() < 0.85]
    strum_s = rng.uniform(0, 0.02)
    return [
        Note(at(bar, step) + i * strum_s, length * step_s, note, rng.uniform(0.6, 0.9))
        for step, length in hits
        for i, note in enumerate(voicing)
    ]


def random_timbre(rng: np.random.Generator, role: str) -> Timbre:
    """Draw an instrument for a role: bass, chords or melody."""
    u = rng.uniform
    plucked = rng.uniform() < (0.4 if role == "bass" else 0.5)
    return Timbre(
        tilt=u(0.9, 2.2) + (0.4 if role == "bass" else 0.0),
        even=float(rng.choice([1.0, 1.0, 0.5, 0.1])),
        bright_s=u(0.05, 0.6),
        attack_s=u(0.002, 0.01) if plucked or role == "bass" else u(0.005, 0.12),
        decay_s=u(0.2, 0.9),
        sustain=0.0 if plucked else u(0.4, 1.0),
        release_s=u(0.05, 0.3),
        detune=u(0.03, 0.18) if role != "bass" or rng.uniform() < 0.2 else 0.0,
        unison=int(rng.integers(1, 4)) if role != "bass" else 1 + int(rng.uniform() < 0.2),
        drive=u(0.5, 3) if rng.uniform() < 0.25 else 0.0,
    )


def random_singer(rng: np.random.Generator) -> Singer:
    """Draw a voice."""
    u = rng.uniform
    return Singer(u(0.85, 1.25), u(0.7, 1.4), u(0.01, 0.1), u(0.1, 0.6), u(4.5, 6.8), u(0.02, 0.1), u(0.2, 0.9))


def render(score: Score, rng: np.random.Generator) -> dict[str, Audio]:
    """Play the score on random instruments; return stems `(2, samples)` by name."""
    n = samples(score.duration_s)

    def place(mono: Audio, spread: float) -> Audio:
        return mono * pan_gains(float(rng.uniform(-spread, spread)))[:, None]

    chords = place(render_notes(score.chords, random_timbre(rng, "chords"), n, rng), 0.7)
    melody = place(render_notes(score.melody, random_timbre(rng, "melody"), n, rng), 0.7)
    stems = {
        "drums": render_drums(score.drums, drum_kit(rng), n, rng),
        "bass": place(render_notes(score.bass, random_timbre(rng, "bass"), n, rng), 0.05),
        "other": level(chords, 0.1) + level(melody, rng.uniform(0.04, 0.1)),
        "vocals": place(render_voice(score.vocals, random_singer(rng), n, rng), 0.1),
    }
    targets = {"drums": 0.1, "bass": 0.1, "other": 0.09, "vocals": 0.1}
    wet = {"drums": 0.05, "bass": 0.0, "other": 0.25, "vocals": 0.2}
    return {
        name: level(
            reverb(stem, rng, decay_s=rng.uniform(0.3, 1.8), wet=wet[name] * rng.uniform(0.2, 1.5)), targets[name]
        )
        for name, stem in stems.items()
    }


def level(audio: Audio, rms: float) -> Audio:
    """Scale audio to an RMS level; silence is unchanged."""
    now = float(np.sqrt((audio.astype(np.float64) ** 2).mean()))
    return (audio * (rms / now)).astype(np.float32) if now > 1e-6 else audio
