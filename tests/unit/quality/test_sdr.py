"""Scores with known references, computed by hand and by fast_bss_eval."""

from __future__ import annotations

import fast_bss_eval
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.quality.bss_eval import sir_sar_db
from engine.quality.sdr import sdr_db, si_scores_db

Audio = NDArray[np.float32]


def signals(sources: int, channels: int, samples: int = 8000) -> tuple[Audio, Audio]:
    """Return references, and estimates with echo, leakage and noise: (sources, channels, samples)."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(sources, channels, samples))
    response = rng.normal(size=30) * np.exp(-np.arange(30) / 5)
    echoed = np.apply_along_axis(lambda one: np.convolve(one, response)[:samples], 2, truth)
    guess = echoed + 0.3 * np.roll(truth, 1, axis=0) + 0.2 * rng.normal(size=truth.shape)
    return truth.astype(np.float32), guess.astype(np.float32)


def energy_part(ratio_db: float, total: float) -> float:
    """Return the part of `total` with the given ratio to the rest."""
    ratio = 10 ** (ratio_db / 10)
    return float(total * ratio / (1 + ratio))


def test_global_sdr_is_energy_ratio() -> None:
    truth = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    guess = np.array([[0.9, 0.0], [1.0, 0.1]], np.float32)
    assert sdr_db(truth, guess) == pytest.approx(10 * np.log10(2 / 0.02), abs=1e-4)
    assert sdr_db(truth, truth) == pytest.approx(10 * np.log10(2 / 1e-7), abs=1e-3), "the formula's own limit"
    assert sdr_db(np.zeros_like(truth), np.zeros_like(truth)) == 0


def test_si_scores_match_fast_bss_eval() -> None:
    truth, guess = signals(3, 1)
    sdr, sir, sar, _ = fast_bss_eval.si_bss_eval_sources(truth[:, 0], guess[:, 0], zero_mean=False)
    for i in range(3):
        assert si_scores_db(truth, i, guess[i]) == pytest.approx((sdr[i], sir[i], sar[i]), abs=1e-3)
        assert si_scores_db(truth, i, 7 * guess[i]) == pytest.approx((sdr[i], sir[i], sar[i]), abs=1e-3)


def test_si_scores_are_finite_beside_silent_stem() -> None:
    truth, guess = signals(2, 2)
    beside_silence = np.concatenate([truth, np.zeros_like(truth[:1])])
    assert si_scores_db(beside_silence, 0, guess[0]) == pytest.approx(si_scores_db(truth, 0, guess[0]))
    assert si_scores_db(truth, 0, truth[0])[0] == float("inf")
    assert all(np.isnan(si_scores_db(beside_silence, 2, guess[0])))
    assert all(np.isnan(si_scores_db(truth, 0, np.zeros_like(guess[0]))))


@pytest.mark.parametrize("length", [1, 64, 512])
def test_sir_and_sar_match_fast_bss_eval(length: int) -> None:
    truth, guess = signals(2, 1)
    _, sir, sar, _ = fast_bss_eval.bss_eval_sources(truth[:, 0].astype(float), guess[:, 0].astype(float), length)
    for i, scores in enumerate(sir_sar_db(truth, guess, length)):
        assert scores == pytest.approx((sir[i], sar[i]), abs=1e-3)


def test_stereo_sir_and_sar_use_both_channels() -> None:
    """The expected scores follow mir_eval and museval, which project onto both channels of a stem.

    They are combined from the projections of fast_bss_eval: each channel of an estimate onto the two channels of its
    stem, and onto all four.
    """
    truth, guess = signals(2, 2)
    channels = truth.reshape(4, -1).astype(float)
    for i, scores in enumerate(sir_sar_db(truth, guess, 64)):
        total, target, known = 0.0, 0.0, 0.0
        for channel in guess[i].astype(float):
            every = np.broadcast_to(channel, (4, channels.shape[1]))
            sar_of_all = fast_bss_eval.bss_eval_sources(channels, every, 64)[2][0]
            own = channels[2 * i : 2 * i + 2]
            sar_of_own = fast_bss_eval.bss_eval_sources(own, every[:2], 64)[2][0]
            total += float(channel @ channel)
            known += energy_part(sar_of_all, float(channel @ channel))
            target += energy_part(sar_of_own, float(channel @ channel))
        expected = 10 * np.log10([target / (known - target), known / (total - known)])
        assert scores == pytest.approx(tuple(expected), abs=1e-3)


def test_blocks_do_not_change_scores_of_long_signal() -> None:
    truth, guess = signals(2, 1, 40_000)
    _, sir, sar, _ = fast_bss_eval.bss_eval_sources(truth[:, 0].astype(float), guess[:, 0].astype(float), 32)
    for i, scores in enumerate(sir_sar_db(truth, guess, 32)):
        assert scores == pytest.approx((sir[i], sar[i]), abs=1e-3)


def test_sir_and_sar_are_none_without_references() -> None:
    truth, guess = signals(2, 2, 3000)
    truth[1] = 0
    (sir, sar), silent = sir_sar_db(truth, guess, 16)
    assert sir is None and sar is not None and np.isfinite(sar), "there is no other source"
    assert silent == (None, None)
    assert sir_sar_db(truth, np.zeros_like(guess), 16) == [(None, None), (None, None)]


def test_duplicated_mono_channel_scores_as_mono() -> None:
    truth, guess = signals(2, 1, 3000)
    one = sir_sar_db(truth, guess, 16)
    two = sir_sar_db(truth.repeat(2, axis=1), guess.repeat(2, axis=1), 16)
    assert np.array(two) == pytest.approx(np.array(one), abs=1e-6)
