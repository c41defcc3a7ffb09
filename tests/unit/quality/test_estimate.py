"""The quality estimate for many songs, models and gains."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest

from engine.jobs.options import Quality
from engine.jobs.words import word_of
from engine.quality.estimate import CALIBRATION, GATE, GATE_SDR_DB, Estimate, calibration, estimate_quality, score_of
from engine.quality.features import FRAMES, WINDOW, Block, Features, StemMeter
from engine.quality.identity import coefficients
from tests.fixtures.songs import tune

RATE = 44100
STEMS = ("vocals", "drums", "bass", "other")
AGREEMENT: dict[str, float | None] = dict.fromkeys((*STEMS, "guitar", "piano"), 15.0)


def stems_of(seconds: float = 3.0) -> dict[str, Block]:
    """Return four stems of equal level that leak into each other."""
    clean = [tune(seconds, seed=i) for i in range(4)]
    return {name: (clean[i] + 0.1 * clean[i - 1]).astype(np.float32) for i, name in enumerate(STEMS)}


def measured(
    stems: dict[str, Block], mix: Block | None = None, block: int = 1 << 30
) -> tuple[dict[str, Features], dict[str, Features]]:
    """Return features and shapes."""
    whole: Block = np.sum(list(stems.values()), axis=0, dtype=np.float32) if mix is None else mix
    meter = StemMeter(tuple(stems))
    for start in range(0, whole.shape[1], block):
        here = slice(start, start + block)
        meter.add(whole[:, here], {name: stem[:, here] for name, stem in stems.items()})
    meter.finish()
    features = meter.features(AGREEMENT, -30.0)
    return features, meter.shapes(features)


def features_of(stems: dict[str, Block], mix: Block | None = None, block: int = 1 << 30) -> dict[str, Features]:
    return measured(stems, mix, block)[0]


def estimate(
    features: dict[str, Features], model: str = "mini", shapes: dict[str, Features] | None = None, **changes: object
) -> Estimate:
    """Estimate with shapes that give no hint of a failure, unless others are given."""
    how: dict[str, object] = {"quality": Quality.BALANCED, "duration_s": 200.0, "karaoke": False}
    shapes = {name: TYPICAL[name] for name in features} if shapes is None else shapes
    return estimate_quality(features, shapes, model=model, **(how | changes))  # type: ignore[arg-type]


def typical_shapes() -> dict[str, Features]:
    """Return for each stem the shape that the fit of identity.json takes for it with the most confidence."""
    content = coefficients()
    weights, scale = np.array(content["weights"]), np.array(content["scale"])
    values = np.array(content["mean"]) + 2 * (scale * np.sign(weights - weights.mean(1, keepdims=True)).T)
    return {
        stem: dict(zip(content["features"], row.tolist(), strict=True))
        for stem, row in zip(content["stems"], values, strict=True)
    }


TYPICAL = typical_shapes()


def test_features_do_not_depend_on_block_size() -> None:
    stems = stems_of()
    whole = features_of(stems)
    for block in (997, WINDOW * FRAMES, 100_000):
        cut = features_of(stems, block=block)
        for name in STEMS:
            assert cut[name] == pytest.approx(whole[name], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("gain_db", [-60.0, -12.0, 18.0])
def test_gain_does_not_change_scores(gain_db: float) -> None:
    stems = stems_of()
    gain = np.float32(10 ** (gain_db / 20))
    plain, changed = features_of(stems), features_of({name: stem * gain for name, stem in stems.items()})
    for name in STEMS:
        assert changed[name] == pytest.approx(plain[name], abs=0.01)
    before, after = estimate(plain).metrics, estimate(changed).metrics
    assert before is not None and after is not None
    assert after.overall_score == pytest.approx(before.overall_score, abs=0.002)
    assert after.artifact_reduction == pytest.approx(before.artifact_reduction, abs=0.002)


def test_meter_memory_is_constant() -> None:
    meter, stems = StemMeter(STEMS), stems_of(2)
    mix: Block = np.sum(list(stems.values()), axis=0)
    sizes = []
    for _ in range(12):
        meter.add(mix, stems)
        sizes.append(len(pickle.dumps(meter)))
    assert sizes[-1] <= sizes[1] + 64, "counters may have more digits"


def noise(seconds: float = 3.0) -> Block:
    return np.random.default_rng(0).normal(0, 0.1, (2, int(seconds * RATE))).astype(np.float32)


def sine(seconds: float = 3.0) -> Block:
    wave: Block = np.sin(np.arange(int(seconds * RATE)) * 0.05).astype(np.float32) / 2
    return np.stack([wave, wave])


@pytest.mark.parametrize(
    "mix",
    [
        pytest.param(lambda: np.zeros((2, 3 * RATE), np.float32), id="silence"),
        pytest.param(lambda: np.full((2, RATE), 1e-7, np.float32), id="almost silence"),
        pytest.param(noise, id="noise"),
        pytest.param(sine, id="sine"),
        pytest.param(lambda: noise(1.0), id="one second"),
        pytest.param(lambda: noise(0.0001), id="four samples"),
        pytest.param(lambda: noise()[:1].repeat(2, 0), id="mono"),
    ],
)
@pytest.mark.parametrize(
    "separate",
    [
        pytest.param(lambda mix: dict.fromkeys(STEMS, mix / 4), id="a quarter each"),
        pytest.param(lambda mix: {name: mix * (name == "bass") for name in STEMS}, id="all in one stem"),
        pytest.param(lambda mix: {name: np.zeros_like(mix) for name in STEMS}, id="nothing in any"),
        pytest.param(lambda mix: {name: noise(9)[:, : mix.shape[1]] for name in STEMS}, id="something else"),
        pytest.param(lambda mix: {name: np.full_like(mix, np.nan) for name in STEMS}, id="not a number"),
    ],
)
def test_estimate_is_finite_or_has_reason(
    mix: Callable[[], Block], separate: Callable[[Block], dict[str, Block]]
) -> None:
    song = mix()
    features, shapes = measured(separate(song), song)
    assert all(math.isfinite(value) for stem in (*features.values(), *shapes.values()) for value in stem.values())
    result = estimate(features, shapes=shapes, duration_s=song.shape[1] / RATE)
    if result.metrics is None:
        assert result.notes and all(note.endswith(".") for note in result.notes)
        return
    json.loads(result.metrics.model_dump_json())
    assert 0 <= result.metrics.overall_score <= 1 and result.metrics.low_confidence


def test_silent_song_is_not_estimated() -> None:
    stems = {name: stem * np.float32(1e-5) for name, stem in stems_of().items()}
    assert features_of(stems) == {}, "below -90 dBFS"
    assert set(features_of({name: stem * np.float32(100) for name, stem in stems.items()})) == set(STEMS)
    assert estimate({}).notes == ("The quality was not estimated: all stems are silent.",)


def test_silent_stems_are_left_out() -> None:
    stems = stems_of()
    stems["vocals"] = stems["vocals"] * np.float32(1e-4)
    features = features_of(stems)
    assert set(features) == {"drums", "bass", "other"}
    result = estimate(features).metrics
    assert result is not None and result.vocal_isolation is None and result.drum_separation is not None
    assert "vocals" not in result.words


def test_six_stems_are_estimated_as_four() -> None:
    stems = stems_of()
    parts = {"guitar": 0.5 * stems["other"], "piano": 0.2 * stems["other"], "other": 0.3 * stems["other"]}
    six = {name: stem.astype(np.float32) for name, stem in {**stems, **parts}.items()}
    for name, features in features_of(six).items():
        assert features == pytest.approx(features_of(stems)[name], rel=1e-3, abs=1e-3)


def test_karaoke_is_estimated_from_vocals() -> None:
    stems = stems_of()
    mix: Block = np.sum(list(stems.values()), axis=0)
    result = estimate(features_of({"vocals": stems["vocals"]}, mix), karaoke=True).metrics
    assert result is not None
    assert result.vocal_isolation == result.overall_score
    assert result.drum_separation is None and result.bass_isolation is None
    silent = estimate({}, karaoke=True)
    assert silent.metrics is None and silent.notes == ("The quality was not estimated: the vocals are silent.",)


def test_score_at_gate_sdr_is_gate() -> None:
    for stem, sdr_db in GATE_SDR_DB.items():
        assert score_of(stem, sdr_db) == pytest.approx(GATE)
        assert score_of(stem, sdr_db - 3) < GATE < score_of(stem, sdr_db + 3)


def with_sdr(sdr_db: float, stem: str = "vocals", level_db: float = -6.0) -> dict[str, Features]:
    """Return features of a stem whose predicted SDR is as near to `sdr_db` as the calibration allows."""
    ridge = calibration()["stems"][stem]["sdr"]
    way = ridge["reach"] * np.sign(sdr_db - ridge["intercept"])
    each = zip(ridge["features"], ridge["mean"], ridge["scale"], ridge["weights"], strict=True)
    features = {name: mean + way * np.sign(weight) * scale for name, mean, scale, weight in each}
    return {stem: features | {"level": level_db, "added": 0.1, "residual": level_db + 30}}


def test_advice_appears_only_below_gate() -> None:
    poor, good = with_sdr(-20), with_sdr(40)
    chosen = {
        "mini": Quality.BEST,
        "htdemucs": Quality.FAST,
        "htdemucs_ft": Quality.BEST,
        "melband_vocals": Quality.FAST,
    }
    advice = [estimate(poor, model, quality=quality).metrics for model, quality in chosen.items()]
    advice_texts = [metrics.advice for metrics in advice if metrics is not None]
    assert advice_texts == [
        "Try another model: htdemucs, or htdemucs_ft.",
        "Try the quality best, or the model htdemucs_ft.",
        "Try another model: mdx_extra.",
        "Try the quality best.",
    ]
    vocals = estimate(poor, "melband_vocals", quality=Quality.BEST).metrics
    assert vocals is not None and vocals.advice is None and not vocals.validated
    best = estimate(good).metrics
    assert best is not None and best.overall_score >= GATE and best.advice is None


def test_models_without_validation_are_unvalidated() -> None:
    features = features_of(stems_of())
    known, other = estimate(features).metrics, estimate(features, "htdemucs").metrics
    assert known is not None and other is not None
    assert known.validated and known.method.endswith("validated on 50 rendered songs")
    assert not other.validated and other.method.endswith(", unvalidated")
    assert calibration()["hash"] in known.method


def test_word_of_each_score() -> None:
    result = estimate(features_of(stems_of())).metrics
    assert result is not None and set(result.words) == {"overall", *STEMS}
    assert result.words["overall"] == word_of(result.overall_score)
    assert result.words["vocals"] == word_of(result.vocal_isolation or 0)
    assert [word_of(score) for score in (0, 0.49, 0.5, 0.74, 0.75, 0.84, 0.85, 1)] == [
        "rough", "rough", "fair", "fair", "good", "good", "clean", "clean",
    ]  # fmt: skip


@pytest.mark.parametrize("stem", ["vocals", "drums", "bass"])
def test_quiet_poor_stem_is_absent_and_left_out(stem: str) -> None:
    good = {name: features for each in STEMS for name, features in with_sdr(40, each).items()}
    whole = estimate(good).metrics
    result = estimate(good | with_sdr(-20, stem, -25))
    assert whole is not None and whole.absent == ()
    assert result.metrics is not None and result.metrics.absent == (stem,) and stem not in result.metrics.words
    assert result.metrics.overall_score > 0.8, "only of the other stems"
    assert any(note.startswith(f"No {stem} found") for note in result.notes)
    for level_db, sdr_db in ((-25, 40), (-5, -20)):
        metrics = estimate(good | with_sdr(sdr_db, stem, level_db)).metrics
        assert metrics is not None and metrics.absent == ()


def test_calibration_claim_follows_from_its_figures() -> None:
    content = json.loads(CALIBRATION.read_text())
    for row in content["stems"].values():
        worth = row["worth"]
        met = (
            worth["rows"] >= 50 and worth["spearman"] >= 0.7 and worth["low"] >= 0.5 and worth["mae_db"] <= 2
            and (worth["worst_family"] or 0) >= 0.5 and worth["spearman"] > worth["baseline"]
        )  # fmt: skip
        assert worth["claimed"] == met


def test_short_songs_are_marked() -> None:
    features = features_of(stems_of())
    for duration_s, short in ((9.9, True), (10.0, False)):
        result = estimate(features, duration_s=duration_s).metrics
        assert result is not None and result.low_confidence is short
