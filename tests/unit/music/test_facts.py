"""Facts of rendered songs from their true stems, and of sounds that have none."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.music.facts import Facts, find_facts
from engine.music.features import StemFeatures
from engine.synth.song import Song, sample_song

RATE = 44100
SECONDS = 16.0
SEEDS = (8, 12)
Audio = NDArray[np.float32]


@cache
def song(seed: int) -> Song:
    return sample_song(seed, SECONDS)


def features(stems: Mapping[str, Audio], *, block: int = 100_000) -> dict[str, StemFeatures]:
    out = {}
    for name, audio in stems.items():
        each = StemFeatures(RATE, has_drums=name in ("drums", "instrumental"), is_pitched=name != "drums")
        for start in range(0, audio.shape[1], block):
            each.add(audio[:, start : start + block])
        each.finish()
        out[name] = each
    return out


def facts(stems: Mapping[str, Audio]) -> Facts:
    return find_facts(features(stems), next(iter(stems.values())).shape[1] / RATE)


def noise(seconds: float, level: float = 0.05, seed: int = 0) -> Audio:
    shape = (2, int(seconds * RATE))
    return np.asarray(level * np.random.default_rng(seed).standard_normal(shape), np.float32)


def speech(seconds: float) -> Audio:
    """Return syllables of a gliding voice at uneven times, with pauses."""
    rng, n = np.random.default_rng(3), int(seconds * RATE)
    shape = np.zeros(n)
    at = 0.0
    while at < seconds - 1:
        length = rng.uniform(0.08, 0.25)
        begin, size = int(at * RATE), int(length * RATE)
        shape[begin : begin + size] = np.hanning(size)
        at += length + (rng.uniform(0, 0.1) if rng.uniform() < 0.8 else rng.uniform(0.3, 0.8))
    hz = 120 + 30 * np.sin(np.arange(n) / RATE * 2.7) + np.cumsum(rng.standard_normal(n)) * 0.05
    wave = np.sin(2 * np.pi * np.cumsum(hz) / RATE) + 0.2 * rng.standard_normal(n)
    return np.asarray(0.1 * np.stack([shape * wave] * 2), np.float32)


@pytest.mark.parametrize("seed", SEEDS)
def test_true_stems_give_the_true_facts(seed: int) -> None:
    truth, found = song(seed).truth, facts(song(seed).stems)
    assert found.rhythm is not None and found.key is not None and found.chords is not None
    assert found.rhythm.tempo_bpm == pytest.approx(truth.tempo_bpm, rel=0.002)
    beats = np.array(truth.beats_s)
    assert len(found.rhythm.beats_s) == pytest.approx(len(beats), abs=1)
    assert max(np.abs(beats - time).min() for time in found.rhythm.beats_s) < 0.03
    downbeats = np.array(truth.downbeats_s)
    assert max(np.abs(downbeats - time).min() for time in found.rhythm.downbeats_s) < 0.03
    assert (found.key.tonic, found.key.is_minor) == (truth.tonic, truth.is_minor)
    right_s = sum(
        max(0.0, min(chord.end_s, true.end_s) - max(chord.start_s, true.start_s))
        for chord in found.chords
        for true in truth.chords
        if (chord.root, chord.is_minor) == (true.root, true.is_minor)
    )
    assert right_s / SECONDS > 0.6


def test_karaoke_gives_the_facts_of_the_instrumental() -> None:
    stems = song(SEEDS[0]).stems
    found = facts(
        {
            "vocals": stems["vocals"],
            "instrumental": np.sum([stems[name] for name in ("drums", "bass", "other")], axis=0),
        }
    )
    truth = song(SEEDS[0]).truth
    assert found.rhythm is not None and found.key is not None
    assert found.rhythm.tempo_bpm == pytest.approx(truth.tempo_bpm, rel=0.002)
    assert (found.key.tonic, found.key.is_minor) == (truth.tonic, truth.is_minor)


def test_song_without_drums_has_tempo_and_key() -> None:
    silent = np.zeros_like(song(SEEDS[0]).mix)
    found = facts({**song(SEEDS[0]).stems, "drums": silent})
    truth = song(SEEDS[0]).truth
    assert found.rhythm is not None and found.key is not None
    assert min(abs(found.rhythm.tempo_bpm / truth.tempo_bpm / ratio - 1) for ratio in (0.5, 1, 2)) < 0.005
    assert (found.key.tonic, found.key.is_minor) == (truth.tonic, truth.is_minor)


def test_drums_alone_have_a_tempo_and_no_key() -> None:
    stems = song(SEEDS[0]).stems
    found = facts({name: audio if name == "drums" else np.zeros_like(audio) for name, audio in stems.items()})
    assert found.rhythm is not None
    assert found.rhythm.tempo_bpm == pytest.approx(song(SEEDS[0]).truth.tempo_bpm, rel=0.002)
    assert found.key is None and found.chords is None


@pytest.mark.parametrize("seconds", [0.0, 0.01, 3.0, 20.0])
def test_silence_has_no_facts(seconds: float) -> None:
    silence = np.zeros((2, int(seconds * RATE)), np.float32)
    assert facts(dict.fromkeys(("drums", "bass", "other", "vocals"), silence)) == Facts()


def test_noise_has_no_facts() -> None:
    found = facts({name: noise(20, seed=seed) for seed, name in enumerate(("drums", "bass", "other", "vocals"))})
    assert (found.rhythm, found.key, found.chords) == (None, None, None)


def test_speech_has_no_facts() -> None:
    voice = speech(20)
    leaks = {"drums": 0.2, "bass": 0.1, "other": 0.3, "vocals": 1.0}
    found = facts({name: np.asarray(share * voice, np.float32) for name, share in leaks.items()})
    assert (found.rhythm, found.key, found.chords) == (None, None, None)


def test_three_seconds_are_too_short_for_facts() -> None:
    assert facts({name: audio[:, : 3 * RATE] for name, audio in song(SEEDS[0]).stems.items()}) == Facts()


def test_one_sustained_note_has_no_tempo() -> None:
    wave = 0.1 * np.sin(2 * np.pi * 220 * np.arange(20 * RATE) / RATE)
    assert facts({"other": np.asarray(np.stack([wave, wave]), np.float32)}).rhythm is None


def test_mono_and_uneven_blocks_give_the_same_features() -> None:
    mix = song(SEEDS[0]).stems["other"]
    mono: Audio = np.asarray(np.mean(mix, axis=0, keepdims=True), np.float32)
    whole, parts = (features({"other": audio}, block=size)["other"] for audio, size in ((mix, 1 << 20), (mono, 7001)))
    np.testing.assert_allclose(parts.bands(), whole.bands(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(parts.pitches(), whole.pitches(), atol=1e-3)
