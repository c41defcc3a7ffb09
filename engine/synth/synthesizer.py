"""A small numpy synthesizer: drums, wavetable instruments, a formant voice and a reverb.

It renders the demo's song and some training songs of the embedded model. The output is deterministic for a given
`numpy.random.Generator`. Audio is float32 at `SAMPLE_RATE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]

SAMPLE_RATE = 44100
_TABLE = 2048

# Five sung vowels of an average tenor as formants (centre in Hz, bandwidth in Hz, gain in dB); a singer scales them.
VOWELS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "a": ((650, 80, 0), (1080, 90, -6), (2650, 120, -7), (2900, 130, -8), (3250, 140, -22)),
    "e": ((400, 70, 0), (1700, 80, -14), (2600, 100, -12), (3200, 120, -14), (3580, 120, -20)),
    "i": ((290, 40, 0), (1870, 90, -15), (2800, 100, -18), (3250, 120, -20), (3540, 120, -30)),
    "o": ((400, 40, 0), (800, 80, -10), (2600, 100, -12), (2800, 120, -12), (3000, 120, -26)),
    "u": ((350, 40, 0), (600, 60, -20), (2700, 100, -17), (2900, 120, -14), (3300, 120, -26)),
}


@dataclass(frozen=True)
class Note:
    """A pitched note: `midi` is the key number (69 = 440 Hz), `velocity` is 0 to 1."""

    start_s: float
    length_s: float
    midi: float
    velocity: float = 0.8


@dataclass(frozen=True)
class Hit:
    """A drum hit; `piece` is a key of `drum_kit`."""

    start_s: float
    piece: str
    velocity: float = 0.8


@dataclass(frozen=True)
class Timbre:
    """A wavetable instrument.

    `tilt` is the harmonics' slope as a power, `even` the level of the even ones, `bright_s` how fast the attack's
    brightness fades, `detune` the spread of `unison` oscillators in semitones; a `sustain` of 0 makes it a pluck.
    """

    tilt: float = 1.2
    even: float = 1.0
    bright_s: float = 0.2
    attack_s: float = 0.01
    decay_s: float = 0.4
    sustain: float = 0.6
    release_s: float = 0.08
    detune: float = 0.0
    unison: int = 1
    drive: float = 0.0


@dataclass(frozen=True)
class Singer:
    """A formant voice: `size` scales the formants, `breath` adds noise, vibrato is in semitones and Hz."""

    size: float = 1.0
    tilt: float = 1.1
    breath: float = 0.03
    vibrato: float = 0.3
    vibrato_hz: float = 5.5
    glide_s: float = 0.06
    consonants: float = 0.5


def samples(seconds: float) -> int:
    """Return a duration in samples."""
    return round(seconds * SAMPLE_RATE)


def hz_of(midi: float) -> float:
    """Return the frequency of a MIDI key number."""
    return float(440.0 * 2.0 ** ((midi - 69.0) / 12.0))


def noise(rng: np.random.Generator, n: int, low_hz: float, high_hz: float) -> Audio:
    """Generate white noise `(n,)` between two frequencies with soft edges, at an RMS of 1."""
    if n < 8:
        return np.zeros(n, np.float32)
    spectrum = np.fft.rfft(rng.standard_normal(n))
    f = np.fft.rfftfreq(n, 1 / SAMPLE_RATE) + 1e-3
    spectrum *= 1 / np.sqrt(1 + (low_hz / f) ** 6) / np.sqrt(1 + (f / high_hz) ** 6)
    out = np.fft.irfft(spectrum, n)
    return np.asarray(out / (out.std() + 1e-9), np.float32)


def drum_kit(rng: np.random.Generator) -> dict[str, Audio]:
    """Generate a random drum kit: one mono sample for each piece."""

    def body(seconds: float, decay_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        t = np.arange(samples(seconds)) / SAMPLE_RATE
        return t, np.exp(-t / decay_s)

    def drop(t: NDArray[np.float64], top_hz: float, end_hz: float, fall_s: float) -> NDArray[np.float64]:
        return np.sin(2 * np.pi * (end_hz * t + (top_hz - end_hz) * fall_s * (1 - np.exp(-t / fall_s))))

    u = rng.uniform
    kit: dict[str, NDArray[np.floating]] = {}
    t, env = body(0.5, u(0.07, 0.2))
    kit["kick"] = np.tanh(u(1, 2.5) * drop(t, u(120, 400), u(42, 70), u(0.02, 0.06)) * env)
    kit["kick"] += u(0.05, 0.35) * noise(rng, len(t), 1500, 7000) * np.exp(-t / u(0.003, 0.01))
    t, env = body(0.45, u(0.05, 0.16))
    kit["snare"] = 0.7 * drop(t, u(230, 420), u(150, 230), 0.03) * np.exp(-t / u(0.04, 0.12))
    kit["snare"] += u(0.25, 0.6) * noise(rng, len(t), u(400, 1800), u(6000, 14000)) * env
    t, env = body(0.35, u(0.04, 0.12))
    claps = sum(np.where(t > d, np.exp(-(t - d) / 0.008), 0.0) for d in (0.0, 0.011, 0.023))
    kit["clap"] = 0.45 * noise(rng, len(t), 800, 5000) * (claps + env)
    t, _ = body(0.12, 1)
    kit["rim"] = (np.sin(2 * np.pi * u(700, 1900) * t) + 0.5 * noise(rng, len(t), 1500, 8000)) * np.exp(-t / 0.02)
    cymbal = u(5000, 9000)
    for piece, seconds, decay_s in (
        ("hat", 0.15, u(0.015, 0.05)),
        ("open", 0.7, u(0.1, 0.3)),
        ("ride", 1.2, u(0.3, 0.6)),
    ):
        t, env = body(seconds, decay_s)
        ring = sum(np.sign(np.sin(2 * np.pi * f * t + u(0, 6))) for f in rng.uniform(3000, 9500, 5))
        kit[piece] = (0.4 * noise(rng, len(t), cymbal, 17000) + u(0, 0.12) * ring) * env
    t, env = body(2.0, u(0.4, 0.9))
    kit["crash"] = 0.45 * noise(rng, len(t), u(1500, 4000), 16000) * env
    for piece, low in (("tom1", u(150, 220)), ("tom2", u(80, 140))):
        t, env = body(0.6, u(0.1, 0.25))
        kit[piece] = drop(t, low * 1.7, low, 0.05) * env + 0.1 * noise(rng, len(t), 200, 3000) * np.exp(-t / 0.02)
    shots = {}
    for piece, shot in kit.items():
        ending = np.minimum(1.0, np.arange(len(shot))[::-1] / 200)
        shots[piece] = np.asarray(shot * ending / (np.abs(shot).max() + 1e-9), np.float32)
    return shots


LEVELS = {"kick": 1.0, "snare": 0.8, "clap": 0.7, "rim": 0.5, "hat": 0.3, "open": 0.3, "ride": 0.25, "crash": 0.5}


def render_drums(hits: Sequence[Hit], kit: dict[str, Audio], n: int, rng: np.random.Generator) -> Audio:
    """Render hits with a kit to `(2, n)`, each piece at a random pan position."""
    out = np.zeros((2, n), np.float32)
    positions = {piece: 0.0 if piece in {"kick", "snare"} else float(rng.uniform(-0.5, 0.5)) for piece in kit}
    for hit in hits:
        start = samples(hit.start_s)
        shot = kit[hit.piece][: max(0, n - start)]
        level = LEVELS.get(hit.piece, 0.7) * hit.velocity * rng.uniform(0.9, 1.1)
        out[:, start : start + len(shot)] += (level * pan_gains(positions[hit.piece]))[:, None] * shot
    return out


def pan_gains(position: float) -> Audio:
    """Return equal-power gains `(2,)` for a position from -1 (left) to 1 (right)."""
    angle = (position + 1) * np.pi / 4
    return np.array([np.cos(angle), np.sin(angle)], np.float32) * np.float32(np.sqrt(2))


def wave_table(amplitudes: NDArray[np.float64], phases: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one cycle of a wave from the amplitudes of its harmonics, at an RMS of 1."""
    spectrum = np.zeros(_TABLE // 2 + 1, np.complex128)
    count = min(len(amplitudes), _TABLE // 2 - 1)
    spectrum[1 : count + 1] = amplitudes[:count] * np.exp(1j * phases[:count])
    wave = np.fft.irfft(spectrum, _TABLE)
    return np.asarray(wave / (np.sqrt((wave**2).mean()) + 1e-12))


def read_table(table: NDArray[np.float64], cycles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Read a wave table at positions in cycles, with linear interpolation."""
    position = (cycles % 1.0) * _TABLE
    index = position.astype(np.int64)
    part = position - index
    index %= _TABLE
    return np.asarray(table[index] * (1 - part) + table[(index + 1) % _TABLE] * part)


def _envelope(n: int, held: int, timbre: Timbre) -> NDArray[np.float64]:
    t = np.arange(n) / SAMPLE_RATE
    level = timbre.sustain + (1 - timbre.sustain) * np.exp(-t / timbre.decay_s)
    level *= np.minimum(1, t / timbre.attack_s) if timbre.attack_s > 0 else 1
    late = np.maximum(0, np.arange(n) - held) / SAMPLE_RATE
    return np.asarray(level * np.exp(-late / (timbre.release_s / 4)))


def render_notes(notes: Sequence[Note], timbre: Timbre, n: int, rng: np.random.Generator) -> Audio:
    """Render notes with a wavetable instrument to mono `(n,)`."""
    out = np.zeros(n, np.float64)
    phases = rng.uniform(0, 2 * np.pi, _TABLE)
    uneven = rng.uniform(0.6, 1.0, _TABLE)
    for note in notes:
        start, held = samples(note.start_s), samples(note.length_s)
        length = min(n - start, held + samples(timbre.release_s))
        if length < 32:
            continue
        hz = hz_of(note.midi)
        k = np.arange(1, max(2, int(16000 / hz)))
        weights = uneven[: len(k)] * np.where(k % 2 == 0, timbre.even, 1.0)
        bright = wave_table(weights * k**-timbre.tilt, phases)
        dark = wave_table(weights * k ** -(timbre.tilt + 1.2), phases)
        t = np.arange(length) / SAMPLE_RATE
        fade = np.exp(-t / timbre.bright_s)
        wave = np.zeros(length)
        for i in range(timbre.unison):
            offset = timbre.detune * (i - (timbre.unison - 1) / 2)
            cycles = hz_of(note.midi + offset) * t + rng.uniform()
            wave += read_table(dark, cycles) + fade * (read_table(bright, cycles) - read_table(dark, cycles))
        wave *= _envelope(length, held, timbre) * note.velocity / np.sqrt(timbre.unison)
        ending = min(200, length)
        wave[-ending:] *= np.linspace(1, 0, ending)
        out[start : start + length] += wave
    if timbre.drive > 0:
        out = np.tanh(out * timbre.drive) / timbre.drive
    return out.astype(np.float32)


def _formant_level(hz: NDArray[np.floating], vowel: str, singer: Singer) -> NDArray[np.float64]:
    level = np.full(hz.shape, 1e-3)
    for centre, width, gain_db in VOWELS[vowel]:
        level += 10 ** (gain_db / 20) / (1 + ((hz - centre * singer.size) / (width * 1.3)) ** 2)
    return level


def _sung_pitch(
    notes: Sequence[Note], i: int, length: int, singer: Singer, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the MIDI pitch over one note: a glide from the previous one, then growing vibrato."""
    note, t = notes[i], np.arange(length) / SAMPLE_RATE
    before = notes[i - 1].midi if i and note.start_s - notes[i - 1].start_s < 1 else note.midi - rng.uniform(0, 2)
    glide = (before - note.midi) * np.exp(-t / singer.glide_s)
    depth = singer.vibrato * np.minimum(1, t / 0.35)
    wave = np.sin(2 * np.pi * singer.vibrato_hz * t + rng.uniform(0, 6))
    drift = 0.12 * np.sin(2 * np.pi * rng.uniform(0.7, 2.5) * t + rng.uniform(0, 6))
    return np.asarray(note.midi + glide + depth * wave + drift)


def render_voice(notes: Sequence[Note], singer: Singer, n: int, rng: np.random.Generator) -> Audio:
    """Render notes with a formant voice to mono `(n,)`, each from one vowel to another."""
    out = np.zeros(n, np.float64)
    phases = rng.uniform(0, 0.6, _TABLE)
    names = sorted(VOWELS)
    for i, note in enumerate(notes):
        start = samples(note.start_s)
        length = min(n - start, samples(note.length_s))
        if length < 400:
            continue
        hz = hz_of(note.midi)
        harmonics = np.arange(1, max(2, int(12000 / hz))) * hz
        source = (harmonics / hz) ** -singer.tilt
        first, second = rng.choice(names, 2)
        tables = [wave_table(source * _formant_level(harmonics, v, singer), phases) for v in (first, second)]
        cycles = np.cumsum(440.0 * 2 ** ((_sung_pitch(notes, i, length, singer, rng) - 69) / 12)) / SAMPLE_RATE
        across = np.clip(np.linspace(-0.5, 1.5, length), 0, 1)
        wave = read_table(tables[0], cycles) * (1 - across) + read_table(tables[1], cycles) * across
        centre = VOWELS[str(first)][1][0] * singer.size
        wave += singer.breath * noise(rng, length, centre, 9000)
        attack, release = min(length // 3, samples(rng.uniform(0.02, 0.07))), min(length // 3, samples(0.06))
        wave[:attack] *= np.linspace(0, 1, attack)
        wave[-release:] *= np.linspace(1, 0, release)
        if rng.uniform() < singer.consonants:
            low = rng.choice([600, 1500, 3500, 5000])
            burst = samples(rng.uniform(0.02, 0.11))
            begin = max(0, start - burst // 2)
            burst = min(burst, n - begin)
            shape = np.sin(np.linspace(0, np.pi, burst)) ** rng.uniform(0.5, 2)
            out[begin : begin + burst] += (
                rng.uniform(0.1, 0.45) * note.velocity * shape * noise(rng, burst, low, low * 2.5)
            )
        out[start : start + length] += wave * note.velocity
    return out.astype(np.float32)


def reverb(audio: Audio, rng: np.random.Generator, *, decay_s: float, wet: float) -> Audio:
    """Add reverb to `(2, n)` audio: decaying noise, different on both channels; same length."""
    n, tail = audio.shape[1], samples(min(3.0, decay_s * 2))
    t = np.arange(tail) / SAMPLE_RATE
    response = rng.standard_normal((2, tail)) * np.exp(-t * (3.45 / decay_s)) * (t > rng.uniform(0.002, 0.03))
    response /= np.sqrt((response**2).sum(1, keepdims=True)) + 1e-9
    size = 1 << (n + tail - 1).bit_length()
    spectrum = np.fft.rfft(audio, size) * np.fft.rfft(response, size)
    spectrum *= 1 / (1 + np.fft.rfftfreq(size, 1 / SAMPLE_RATE) / 5000)
    return (audio + wet * np.fft.irfft(spectrum, size)[:, :n]).astype(np.float32)
