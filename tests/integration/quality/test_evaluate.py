"""`python -m engine evaluate` with real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.cli.main import main
from engine.quality.sdr import sdr_db
from tests.fixtures.songs import Samples, make_song, silence, tune

SECONDS = 1.0


def write(folder: Path, stems: dict[str, Samples], pattern: str = "{}.wav", bits: str = "f32") -> None:
    folder.mkdir(exist_ok=True)
    for name, samples in stems.items():
        make_song(folder / pattern.format(name), samples=samples, bits=bits)


def scores(capsys: pytest.CaptureFixture[str], estimates: Path, references: Path) -> dict[str, dict[str, float]]:
    assert main(["evaluate", str(estimates), str(references), "--json"]) == 0
    return {row["stem"]: row for row in json.loads(capsys.readouterr().out)}


@pytest.fixture
def truth() -> dict[str, Samples]:
    """Return mono stems, for which SIR and SAR take an eighth of the time."""
    return {name: tune(SECONDS, channels=1, seed=i) for i, name in enumerate(("vocals", "drums", "bass", "other"))}


def test_stems_are_found_by_name_and_scored(
    tmp_path: Path, truth: dict[str, Samples], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    guess = {name: (stem + rng.normal(0, 0.03, stem.shape)).astype(np.float32) for name, stem in truth.items()}
    write(tmp_path / "true", truth)
    write(tmp_path / "out", guess, "The Other Drums - {} - mini.wav")
    (tmp_path / "out" / "waveform.png").write_bytes(b"not audio")
    found = scores(capsys, tmp_path / "out", tmp_path / "true")
    assert list(found) == ["vocals", "drums", "bass", "other"]
    for name, row in found.items():
        assert row["sdrDb"] == pytest.approx(sdr_db(truth[name], guess[name]), abs=0.01)
        assert row["siSdrDb"] == pytest.approx(row["sdrDb"], abs=0.5)
        assert row["sirDb"] > row["sarDb"], "only noise was added"
    write(tmp_path / "one", {"drums": guess["drums"]})
    assert main(["evaluate", str(tmp_path / "one"), str(tmp_path / "true")]) == 0
    assert "SI-SDR" in capsys.readouterr().out


def test_karaoke_and_six_stems_are_scored_by_four_references(
    tmp_path: Path, truth: dict[str, Samples], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "true", truth)
    instrumental = truth["drums"] + truth["bass"] + truth["other"]
    write(tmp_path / "karaoke", {"vocals": truth["vocals"], "instrumental": instrumental})
    found = scores(capsys, tmp_path / "karaoke", tmp_path / "true")
    assert set(found) == {"vocals", "instrumental"}
    assert all(row["sdrDb"] > 60 for row in found.values()), found
    parts = {"guitar": 0.5 * truth["other"], "piano": 0.25 * truth["other"], "other": 0.25 * truth["other"]}
    write(tmp_path / "six", {**truth, **parts})
    found = scores(capsys, tmp_path / "six", tmp_path / "true")
    assert set(found) == set(truth) and found["other"]["sdrDb"] > 60


def test_silent_reference_gets_sdr_only(
    tmp_path: Path, truth: dict[str, Samples], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "true", {**truth, "vocals": silence(SECONDS, channels=1)})
    write(tmp_path / "out", truth)
    found = scores(capsys, tmp_path / "out", tmp_path / "true")
    assert found["vocals"]["sdrDb"] < -60 and found["vocals"]["silentReference"]
    assert {found["vocals"][key] for key in ("siSdrDb", "sirDb", "sarDb")} == {None}
    assert found["drums"]["sirDb"] is not None


def test_incomparable_folders_are_refused(
    tmp_path: Path, truth: dict[str, Samples], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "true", truth)
    write(tmp_path / "longer", {name: tune(2 * SECONDS) for name in truth})
    write(tmp_path / "twice", truth)
    write(tmp_path / "twice", {"drums": truth["drums"]}, "my {}.flac", bits="24")
    (tmp_path / "empty").mkdir()
    for folder, words in (
        ("longer", "differ in length"), ("twice", "two files for drums"), ("empty", "named after a stem"),
        ("nowhere", "There is no folder"),
    ):  # fmt: skip
        assert main(["evaluate", str(tmp_path / folder), str(tmp_path / "true")]) == 2
        assert words in capsys.readouterr().err
