"""Peaks are independent of the block size, and any stems can be drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.media.waveform import Peaks, render_waveform
from tests.fixtures.songs import silence, tune


@given(samples=st.integers(1, 500), bins=st.integers(1, 60), cuts=st.lists(st.integers(1, 120), min_size=1, max_size=9))
@settings(max_examples=150, deadline=None)
def test_peaks_are_independent_of_block_size(samples: int, bins: int, cuts: list[int]) -> None:
    mix = np.random.default_rng(samples).uniform(-1, 1, (2, samples)).astype(np.float32)
    peaks = Peaks(samples, bins)
    at = 0
    for turn in range(samples):
        length = cuts[turn % len(cuts)]
        peaks.add(mix[:, at : at + length])
        at += length
    edges = np.arange(peaks.bins + 1) * samples // peaks.bins
    for number in range(peaks.bins):
        part = mix[:, edges[number] : edges[number + 1]]
        assert peaks.low[number] == min(part.min(), 0)
        assert peaks.high[number] == max(part.max(), 0)
        assert peaks.rms[number] == pytest.approx(np.sqrt(np.mean(np.square(part))), abs=1e-5)
    assert peaks.peak == pytest.approx(np.abs(mix).max())
    assert peaks.level == pytest.approx(np.sqrt(np.mean(np.square(mix))), abs=1e-5)


def test_silent_stem_is_detected() -> None:
    peaks = Peaks(44100)
    peaks.add(silence(1))
    assert (peaks.peak, peaks.level, peaks.silence_share) == (0, 0, 1)
    half = Peaks(44100)
    half.add(np.concatenate([silence(0.5), tune(0.5)], axis=1))
    assert half.silence_share == pytest.approx(0.5, abs=0.01)


def test_peaks_for_player_are_small_integers() -> None:
    peaks = Peaks(10_000, bins=100)
    peaks.add(3 * tune(1)[:, :10_000])
    data = peaks.as_json(gain=0.5)
    assert data["bins"] == len(data["low"]) == len(data["high"]) == 100
    assert all(-127 <= low <= 0 <= high <= 127 for low, high in zip(data["low"], data["high"], strict=True))
    assert max(data["high"]) == round(127 * min(1, 0.5 * float(peaks.high.max())))


def test_picture_has_one_coloured_row_per_stem(tmp_path: Path) -> None:
    stems = {}
    for seed, name in enumerate(["vocals", "drums", "bass", "theremin"]):
        stems[name] = Peaks(44100)
        stems[name].add(tune(1, seed=seed) if name != "bass" else silence(1))
    render_waveform(stems, tmp_path / "stems.png")
    picture = Image.open(tmp_path / "stems.png")
    assert picture.format == "PNG"
    assert picture.getpixel((0, 0)) == (0, 0, 0, 0)  # round corners
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    rows = np.array_split(pixels, 4)

    def has(row: int, colour: tuple[int, int, int]) -> bool:
        return bool((np.abs(rows[row] - colour).max(axis=2) < 12).any())

    assert has(0, (0xFF, 0x6B, 0x9A))
    assert has(1, (0xFF, 0xB3, 0x47))
    assert not has(1, (0xFF, 0x6B, 0x9A))
    assert not has(2, (0xA7, 0x8B, 0xFA))  # silent: grey


def test_picture_of_few_samples_is_drawn(tmp_path: Path) -> None:
    one = Peaks(1)
    one.add(np.ones((1, 1), dtype=np.float32))
    render_waveform({"vocals": one}, tmp_path / "one.png")
    render_waveform({}, tmp_path / "none.png")
    assert (tmp_path / "one.png").stat().st_size > 500
