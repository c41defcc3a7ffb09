from __future__ import annotations

import numpy as np

from engine.synth.song import STEMS, sample_song


def test_sample_song_is_sum_of_stems() -> None:
    song = sample_song(duration_s=6.0)
    assert tuple(song.stems) == STEMS
    assert song.mix.shape == (2, 6 * 44100)
    assert song.mix.dtype == np.float32
    assert np.abs(song.mix).max() < 1.0
    np.testing.assert_allclose(sum(song.stems.values()), song.mix, atol=1e-6)


def test_every_sample_stem_is_audible() -> None:
    for name, stem in sample_song(duration_s=8.0).stems.items():
        assert np.sqrt((stem.astype(np.float64) ** 2).mean()) > 0.01, name
        assert np.isfinite(stem).all()


def test_seed_determines_song() -> None:
    first, again, other = sample_song(7, 3.0), sample_song(7, 3.0), sample_song(8, 3.0)
    np.testing.assert_array_equal(first.mix, again.mix)
    assert np.abs(first.mix - other.mix).max() > 0.01
