"""Synthesise an acoustic drum kit: modes of a struck membrane, snare wires, and cymbals of many partials.

`engine.synth.synthesizer.drum_kit` is a drum machine. This kit resonates like a real one; models mistake it for bass.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.synth.synthesizer import SAMPLE_RATE, Audio, noise, samples
from training.synths import log_uniform

# An ideal circular membrane's frequencies over its lowest (Fletcher and Rossing, "The physics of musical instruments").
MODES = (1.0, 1.59, 2.14, 2.30, 2.65, 2.92, 3.16, 3.50)


def acoustic_kit(rng: np.random.Generator) -> dict[str, Audio]:
    """Return a random kit: a mono one-shot for each piece, with a peak of 1."""

    def log(low: float, high: float) -> float:
        return log_uniform(rng, low, high)

    def times(seconds: float) -> NDArray[np.float64]:
        return np.arange(samples(seconds)) / SAMPLE_RATE

    room_s, room = log(0.08, 0.5), rng.uniform(0, 0.12)

    def skin(low_hz: float, decay_s: float, overtones: float, tension: float, fall_s: float) -> NDArray[np.float64]:
        """Return a drum whose modes decay at different rates; its pitch falls by `tension` after a hard hit."""
        t = times(min(2.0, 6 * decay_s + 0.1))
        turns = 2 * np.pi * low_hz * (t + tension * fall_s * (1 - np.exp(-t / fall_s)))
        out = np.sin(turns) * np.exp(-t / decay_s)
        for mode in MODES[1:]:
            height, rate = overtones * rng.uniform(0, 1) / mode, mode ** rng.uniform(0.5, 2) / decay_s
            out += height * np.sin(mode * turns + rng.uniform(0, 6)) * np.exp(-t * rate)
        return out

    def struck(body: NDArray[np.float64], height: float, low_hz: float, high_hz: float, s: float) -> None:
        """Add the attack noise and the reverberation."""
        t = np.arange(len(body)) / SAMPLE_RATE
        body += height * noise(rng, len(t), low_hz, high_hz) * np.exp(-t / s)
        body += room * noise(rng, len(t), 80, log(300, 3000)) * np.exp(-t / room_s)

    kit: dict[str, NDArray[np.float64]] = {}
    kit["kick"] = skin(log(36, 80), log(0.05, 0.4), rng.uniform(0, 1), rng.uniform(0, 2.5), log(0.008, 0.06))
    struck(kit["kick"], rng.uniform(0.05, 0.6), log(800, 3000), log(3500, 9000), log(0.002, 0.015))
    kit["snare"] = skin(log(140, 280), log(0.03, 0.2), rng.uniform(0.2, 1), rng.uniform(0, 0.6), 0.02)
    kit["snare"] = np.pad(kit["snare"], (0, max(0, samples(0.5) - len(kit["snare"]))))
    struck(kit["snare"], rng.uniform(0.2, 1), log(300, 2500), log(6000, 15000), log(0.04, 0.25))
    for piece, low_hz in (("tom1", log(100, 240)), ("tom2", log(60, 140))):
        kit[piece] = skin(low_hz, log(0.1, 0.6), rng.uniform(0.1, 1), rng.uniform(0, 0.5), log(0.02, 0.1))
        struck(kit[piece], rng.uniform(0.02, 0.3), log(300, 1500), log(2000, 8000), log(0.004, 0.03))
    for piece, seconds, decay_s, low_hz in (
        ("hat", 0.4, log(0.012, 0.08), log(2500, 7000)),
        ("open", 1.0, log(0.1, 0.5), log(2500, 7000)),
        ("ride", 2.0, log(0.3, 1.2), log(1500, 5000)),
        ("crash", 3.0, log(0.4, 1.5), log(500, 3000)),
    ):
        t, metal = times(seconds), rng.uniform(0.1, 1)
        body = noise(rng, len(t), low_hz, log(9000, 18000)).astype(np.float64)
        for hz in np.exp(rng.uniform(np.log(low_hz), np.log(15000), 12)):
            body += metal * 0.4 * np.sin(2 * np.pi * hz * t + rng.uniform(0, 6)) * np.exp(-t * rng.uniform(0, 3))
        kit[piece] = body * np.exp(-t / decay_s) * np.minimum(1, t / log(0.0003, 0.003))
    t = times(0.15)
    kit["rim"] = np.sin(2 * np.pi * log(350, 2000) * t) * np.exp(-t / log(0.008, 0.04))
    struck(kit["rim"], rng.uniform(0.2, 1), log(800, 3000), 10000, log(0.002, 0.01))
    t = times(0.35)
    apart_s = rng.uniform(0.006, 0.016)
    clap = sum(np.where(t > i * apart_s, np.exp(-np.maximum(0, t - i * apart_s) / 0.008), 0.0) for i in range(4))
    kit["clap"] = noise(rng, len(t), log(500, 1500), log(3000, 8000)).astype(np.float64) * (
        clap + 0.5 * np.exp(-t / log(0.04, 0.15))
    )
    shots = {}
    for piece, shot in kit.items():
        ending = np.minimum(1.0, np.arange(len(shot))[::-1] / 400)
        shots[piece] = np.asarray(shot * ending / (np.abs(shot * ending).max() + 1e-9), np.float32)
    return shots
