"""The training of the quality estimate, and the figures of its calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.quality.estimate import CALIBRATION, calibration, predict_db
from engine.quality.sdr import sdr_db
from engine.synth.song import STEMS
from tests.fixtures.songs import tune
from training import calibration_card
from training.calibrate import Worth, as_json, data_of, held_out, worth_of
from training.faults import FAULTS, altered
from training.ridge import fit, interval, spearman
from training.validation_outputs import Row, embedded_weights, rows_of, signature_of


def rows(noise_db: float, sounds: int = 4, songs: int = 10) -> list[Row]:
    """Return vocals with an SDR of half their level plus their distortion plus noise."""
    rng = np.random.default_rng(0)
    made = []
    for family in range(sounds):
        for song in range(songs):
            for way in ("mini", "early"):
                level, distortion = rng.normal(-6, 3), rng.normal(6, 4)
                sdr = 0.5 * level + distortion + rng.normal(0, noise_db)
                seen = {"level": level, "distortion": distortion, "residual": 10.0}
                made.append(Row(f"{family}-{song}", str(family), way, True, "vocals", seen, sdr, sdr + 3))
    return made


def test_rank_correlation_handles_monotone_and_ties() -> None:
    a = np.array([1.0, 2.0, 3.0, 10.0])
    assert spearman(a, np.exp(a)) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, np.array([1.0, 1.0, 2.0, 2.0])) == pytest.approx(0.8944, abs=1e-4)  # scipy.stats.spearmanr
    assert np.isnan(spearman(a, np.ones(4)))


def test_interval_widens_for_correlated_rows() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=20)
    b = a + rng.normal(size=20)
    songs = [str(i) for i in range(20)]
    low, high = interval(a, b, songs)
    apart = interval(np.repeat(a, 10), np.repeat(b, 10), [str(i) for i in range(200)])
    together = interval(np.repeat(a, 10), np.repeat(b, 10), list(np.repeat(songs, 10)))
    assert low < spearman(a, b) < high
    assert together == pytest.approx((low, high), abs=0.05)
    assert apart[1] - apart[0] < 0.5 * (together[1] - together[0])


def test_saved_fit_predicts_and_imputes_missing_feature() -> None:
    data = data_of(rows(0.5), "vocals")
    ridge = fit(data.x, data.sdr, data.importance, 0.001)
    written = as_json(ridge, data.names, data.sdr)
    seen = dict(zip(data.names, data.x[3], strict=True))
    low, high = written["range_db"]
    assert predict_db(written, seen) == pytest.approx(np.clip(ridge(data.x[3:4])[0], low, high), abs=1e-3)
    del seen["level"]
    at_mean = data.x[3:4].copy()
    at_mean[0, data.names.index("level")] = ridge.mean[data.names.index("level")]
    assert predict_db(written, seen) == pytest.approx(np.clip(ridge(at_mean)[0], low, high), abs=1e-3)
    assert predict_db(written, {"distortion": 1e9}) <= high
    assert predict_db(written, {"distortion": float("nan")}) == predict_db(written, {})


def test_prediction_comes_from_fit_without_its_family() -> None:
    made = rows(0.0)
    data = data_of(made, "vocals")
    other = data_of([*(row for row in made if row.sounds != "0")], "vocals")
    alone = fit(other.x, other.sdr, other.importance, 0.01)
    here = data.sounds == "0"
    np.testing.assert_allclose(held_out(data, data.sdr, 0.01)[here], alone(data.x[here]))
    poisoned = data.sdr.copy()
    poisoned[here] = 1000  # the truth of a family must not reach its own predictions
    np.testing.assert_allclose(held_out(data, poisoned, 0.01)[here], alone(data.x[here]))
    early = data.ways == "early"
    poisoned = data.sdr.copy()
    poisoned[early] = 1000
    without = held_out(data, poisoned, 0.01, without="early")
    np.testing.assert_allclose(without, held_out(data, data.sdr, 0.01, without="early"))


def test_claim_is_met_by_good_estimate_only() -> None:
    good, poor = (worth_of(data_of(rows(noise_db), "vocals")) for noise_db in (0.5, 12.0))
    assert good.claimed(["mini", "early"]) and good.spearman > 0.9 and good.mae_db < 1
    assert good.spearman > good.baseline + 0.3
    assert not poor.claimed(["mini", "early"])
    few = Worth(**{**vars(good), "rows": 49})
    assert not few.claimed(["mini", "early"])
    unseen = Worth(**{**vars(good), "without_family": {"mini": 0.9, "early": 0.4}})
    assert not unseen.claimed(["mini", "early"])


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_lower_sdr_and_nearer_raises_it(fault: str) -> None:
    truth = {name: tune(2, seed=i) for i, name in enumerate(STEMS)}
    rng = np.random.default_rng(0)
    stems = {name: (stem + rng.normal(0, 0.005, stem.shape)).astype(np.float32) for name, stem in truth.items()}
    before: dict[str, float | None] = dict.fromkeys(STEMS, 12.0)
    changed, agreement = altered(fault, stems, truth, before, np.random.default_rng(1))
    kept = {name: sdr_db(truth[name], stems[name]) for name in STEMS}
    found = {name: sdr_db(truth[name], changed[name]) for name in STEMS}
    better = [found[name] > kept[name] + 1 for name in STEMS]
    assert all(better) if fault == "nearer" else not any(better)
    assert any(found[name] < kept[name] - 1 for name in STEMS) or fault == "nearer"
    assert all((agreement[name] or 0) > 12 for name in STEMS) == (fault == "nearer")


def test_row_omits_stems_absent_from_song() -> None:
    truth = {name: tune(2, seed=i) for i, name in enumerate(STEMS)}
    truth["bass"] = np.zeros_like(truth["bass"])
    stems = {name: (0.9 * stem + 0.1 * truth["drums"]).astype(np.float32) for name, stem in truth.items()}
    agreement: dict[str, float | None] = dict.fromkeys(STEMS, 12.0)
    made = {row.stem: row for row in rows_of(truth, stems, agreement, song="synth-1", way="mini", natural=True)}
    assert set(made) == {"drums", "other", "vocals"}
    assert made["vocals"].sdr_db == pytest.approx(sdr_db(truth["vocals"], stems["vocals"]))
    assert made["vocals"].sounds == "synth"


def test_calibration_matches_shipped_weights() -> None:
    assert calibration()["weights"] == signature_of(embedded_weights()), "run training.calibrate again: training/README"


def test_card_matches_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_card, "CALIBRATION", tmp_path / "calibration.json")
    written = calibration_card.write_card(calibration())
    assert written.read_text() == CALIBRATION.with_name("CALIBRATION.md").read_text(), "run training.calibrate --write"
