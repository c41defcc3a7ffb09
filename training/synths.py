"""More instruments than `engine.synth.synthesizer` has: frequency modulation, a plucked string, an analog synthesizer.

Each call plays the notes on a random instrument, dry and centred: `(2, n)`. Thousands of sounds keep a network
from memorising them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.synth.synthesizer import SAMPLE_RATE, Audio, Note, hz_of, noise, read_table, samples, wave_table

Array = NDArray[np.float64]
Synth = Callable[[Sequence[Note], int, np.random.Generator, bool], Audio]


@dataclass(frozen=True)
class _Played:
    """One note on the time axis: where it begins, its samples' times, its frequency."""

    start: int
    t: Array
    hz: float
    note: Note


def _played(notes: Sequence[Note], n: int, release_s: float) -> Iterator[_Played]:
    for note in notes:
        start = samples(note.start_s)
        length = min(n - start, samples(note.length_s) + samples(release_s))
        if length >= 64:
            yield _Played(start, np.arange(length) / SAMPLE_RATE, hz_of(note.midi), note)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Between two positive values, every octave as likely as any other."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _released(level: Array, played: _Played, release_s: float) -> Array:
    level = level * np.exp(-np.maximum(0, played.t - played.note.length_s) / (release_s / 4))
    level[-64:] *= np.linspace(1, 0, 64)
    return level


def _both_sides(out: Array) -> Audio:
    return np.stack([out, out]).astype(np.float32)


# The operators' waves, at an average of zero: a sine, its positive half, its absolute value, and rising quarters.
WAVES: tuple[Callable[[Array], Array], ...] = (
    np.sin,
    lambda turn: np.maximum(np.sin(turn), 0) - 1 / np.pi,
    lambda turn: np.abs(np.sin(turn)) - 2 / np.pi,
    lambda turn: np.where(turn % np.pi < np.pi / 2, np.abs(np.sin(turn)), 0) - 1 / np.pi,
)


def play_fm(notes: Sequence[Note], n: int, rng: np.random.Generator, is_bass: bool) -> Audio:
    """Render two FM operators with feedback (Chowning, 1973), in series or in parallel.

    The modulator's ratio, depth and the depth's fall make it anything from a soft electric piano to a metallic bass.
    """
    ratio = float(rng.choice([0.5, 1, 1, 1, 2, 2, 3, 4] if is_bass else [0.5, 1, 1, 1, 2, 2, 3, 4, 5, 7, 9, 14]))
    ratio *= 1 + float(rng.choice([0, 0, 0.002, 0.006]))
    carrier, modulating = (WAVES[int(rng.choice(4, p=[0.55, 0.15, 0.15, 0.15]))] for _ in range(2))
    beside = rng.uniform() < 0.15
    depth, rest, fall_s = rng.uniform(0.3, 7), rng.uniform(0.0, 0.9), log_uniform(rng, 0.03, 1.5)
    attack_s, sustain = rng.uniform(0.001, 0.015), 0.0 if rng.uniform() < 0.5 else rng.uniform(0.3, 1)
    decay_s, release_s, feedback = log_uniform(rng, 0.15, 2), rng.uniform(0.04, 0.25), rng.uniform(0, 1.5)
    trembling, trembling_hz = (rng.uniform(0, 0.4) if rng.uniform() < 0.2 else 0.0), rng.uniform(3, 7)
    out = np.zeros(n)
    for played in _played(notes, n, release_s):
        t, velocity = played.t, played.note.velocity
        turn = 2 * np.pi * played.hz * t
        # high notes would fold back over the upper end: they get less depth
        limit = 16000 / played.hz / max(1.0, ratio)
        index = min(depth, limit) * (rest + (1 - rest) * np.exp(-t / fall_s)) * (0.5 + 0.5 * velocity)
        modulator = modulating(ratio * turn + feedback * np.sin(ratio * turn))
        wave = carrier(turn) + 0.3 * index * modulator if beside else carrier(turn + index * modulator)
        level = (sustain + (1 - sustain) * np.exp(-t / decay_s)) * np.minimum(1, t / attack_s)
        level *= 1 - trembling * (0.5 + 0.5 * np.sin(2 * np.pi * trembling_hz * t))
        out[played.start : played.start + len(t)] += wave * _released(level, played, release_s) * velocity
    return _both_sides(out)


def play_string(notes: Sequence[Note], n: int, rng: np.random.Generator, is_bass: bool) -> Audio:
    """Render a plucked or slapped string with random positions and slightly stretched harmonics.

    The positions of plucking and pickup cancel harmonics; high ones decay first (Fletcher and Rossing, "The
    physics of musical instruments", chapters 2 and 9).
    """
    slapped = rng.uniform() < 0.3
    place, pickup = rng.uniform(0.04, 0.45), rng.uniform(0.04, 0.45)
    tilt = rng.uniform(0.2, 0.9) if slapped else rng.uniform(0.6, 2.2)
    stretch = log_uniform(rng, 1e-5, 6e-4)
    is_muted = rng.uniform() < 0.25  # by the palm
    decay_s = log_uniform(rng, 0.08, 0.5) if is_muted else log_uniform(rng, 0.5, 4)
    damping = log_uniform(rng, 0.002, 0.12)
    release_s, top_hz = rng.uniform(0.03, 0.15), rng.uniform(1500, 9000)
    click = rng.uniform(0, 0.5 if slapped else 0.15)
    click_hz, click_s = log_uniform(rng, 400, 6000), log_uniform(rng, 0.002, 0.02)
    drive = rng.uniform(0.5, 4) if rng.uniform() < 0.25 else 0.0
    out = np.zeros(n)
    for played in _played(notes, n, release_s):
        t, velocity = played.t, played.note.velocity
        k = np.arange(1, int(np.clip(top_hz / played.hz, 2, 40 if is_bass else 14)) + 1)
        heights = np.sin(np.pi * k * place) * np.sin(np.pi * k * pickup) * k ** -(tilt * (1.3 - 0.3 * velocity))
        heights /= np.sqrt((heights**2).sum()) + 1e-9
        rates = (1 + damping * k**2) / decay_s
        wave = np.zeros(len(t))
        for number, height, rate in zip(k, heights, rates, strict=True):
            alive = min(len(t), samples(7 / rate))  # the rest is below -60 dB
            hz = number * played.hz * np.sqrt(1 + stretch * number**2)
            if hz < 18000:
                wave[:alive] += height * np.sin(2 * np.pi * hz * t[:alive]) * np.exp(-rate * t[:alive])
        struck = min(len(t), samples(8 * click_s))
        wave[:struck] += click * noise(rng, struck, click_hz, 2.5 * click_hz) * np.exp(-t[:struck] / click_s)
        out[played.start : played.start + len(t)] += _released(wave, played, release_s) * velocity
    return _both_sides(np.tanh(out * drive) / drive if drive else out)


def play_analog(notes: Sequence[Note], n: int, rng: np.random.Generator, is_bass: bool) -> Audio:
    """Render saws, pulses or a sine through a resonant low-pass with an envelope per note.

    The filter works on the wave's harmonics (six tables, faded from one to the next as it moves).
    """
    shape = str(rng.choice(["saw", "pulse", "square", "sine"], p=[0.4, 0.2, 0.2, 0.2]))
    width, steepness = rng.uniform(0.08, 0.45), float(rng.choice([2, 4]))
    open_octaves, closed_octaves = rng.uniform(1, 6), rng.uniform(0, 3)
    resonance, fall_s = rng.uniform(0, 3) if rng.uniform() < 0.6 else 0.0, log_uniform(rng, 0.04, 1)
    sub = rng.uniform(0, 1) if rng.uniform() < 0.4 else 0.0
    detune, glide_s = rng.uniform(0, 0.15), log_uniform(rng, 0.003, 0.06)
    drop = rng.uniform(2, 14) if is_bass and rng.uniform() < 0.3 else 0.0  # semitones, as in a kick
    attack_s, sustain = rng.uniform(0.002, 0.02), float(rng.choice([0.0, rng.uniform(0.4, 1)]))
    decay_s, release_s = log_uniform(rng, 0.15, 1.5), rng.uniform(0.03, 0.3)
    drive = rng.uniform(0.5, 4) if rng.uniform() < 0.3 else 0.0
    phases = rng.uniform(0, 2 * np.pi, 2048) if rng.uniform() < 0.3 else np.full(2048, -np.pi / 2)
    voices = int(rng.integers(1, 3 if is_bass else 4))
    out = np.zeros(n)
    for played in _played(notes, n, release_s):
        t, velocity = played.t, played.note.velocity
        k = np.arange(1, max(2, int(16000 / played.hz)))
        heights = {
            "saw": 1 / k, "square": (k % 2) / k, "pulse": np.abs(np.sin(np.pi * k * width)) / k, "sine": 1.0 * (k == 1),
        }[shape]  # fmt: skip
        tables = []
        for octaves in np.linspace(closed_octaves, closed_octaves + open_octaves, 6):
            passed = 1 / np.sqrt(1 + (k / 2**octaves) ** (2 * steepness))
            passed *= 1 + resonance * np.exp(-((np.log2(k) - octaves) ** 2) / 0.08)
            tables.append(wave_table(heights * passed, phases) * np.sqrt(((heights * passed) ** 2).sum()))
        opened = 5 * np.exp(-t / fall_s) * np.minimum(1, t / attack_s) * velocity
        bent = 2 ** (drop / 12 * np.exp(-t / glide_s))
        wave = np.zeros(len(t))
        for voice in range(voices):
            cycles = np.cumsum(played.hz * 2 ** (detune * (voice - (voices - 1) / 2) / 12) * bent) / SAMPLE_RATE
            cycles += 0.0 if voices == 1 else rng.uniform()
            low = np.minimum(4, opened.astype(np.int64))
            for step in range(int(low.min()), int(low.max()) + 1):
                there = low == step
                part = opened[there] - step
                wave[there] += read_table(tables[step], cycles[there]) * (1 - part)
                wave[there] += read_table(tables[step + 1], cycles[there]) * part
        if sub:
            wave += sub * np.sin(np.pi * np.cumsum(played.hz * bent) / SAMPLE_RATE)
        level = (sustain + (1 - sustain) * np.exp(-t / decay_s)) * np.minimum(1, t / attack_s)
        out[played.start : played.start + len(t)] += wave * _released(level, played, release_s) * velocity
    return _both_sides(np.tanh(out * drive) / drive if drive else out)


SYNTHS: tuple[Synth, ...] = (play_fm, play_string, play_analog)
