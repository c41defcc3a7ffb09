"""`python -m engine mix`."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from engine.cli.main import main
from engine.media.encode import StemEncoder
from tests.fixtures.mix_server import samples_of
from tests.fixtures.songs import Samples, tune

STEMS: dict[str, Samples] = {
    name: 0.3 * tune(1, seed=seed) for seed, name in enumerate(("vocals", "drums", "bass", "other"))
}
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of stems as `separate` writes it, with a common gain of -6 dB."""
    made = tmp_path / "stems"
    made.mkdir()
    for name, stem in STEMS.items():
        path = made / f"Sunny - {name} - mini.flac"
        with StemEncoder(path, format="flac", sample_rate=44100, tags={"artist": "Band"}) as encoder:
            encoder.write(stem * np.float32(10 ** (-6 / 20)))
    (made / "Sunny - peaks.json").write_text(json.dumps({"model": "mini", "gain_db": -6.0}))
    return made


def test_mix_is_named_after_its_levels(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--without", "drums", "--gain", "bass=-6", "--from", "0.25", "--format", "wav"]
    assert main(["mix", str(folder), *arguments]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == folder / "Sunny (no drums, bass −6 dB, 0.00–end).wav"
    wanted = STEMS["vocals"] + np.float32(10 ** (-6 / 20)) * STEMS["bass"] + STEMS["other"]
    np.testing.assert_allclose(samples_of(path, tmp_path)[0], wanted[:, 11025:], atol=1e-4)


def test_mix_in_another_key_goes_to_the_named_file(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "practice.flac"
    assert main(["mix", str(folder), "--key", "-2", "--tempo", "0.8", "--out", str(target)]) == 0
    samples, _ = samples_of(target, tmp_path)
    assert samples.shape == (2, round(44100 / 0.8))
    with av.open(str(target)) as container:
        tags = {name.lower(): value for name, value in container.metadata.items()}
    assert (tags["artist"], tags["title"]) == ("Band", "Sunny (−2, 80 %)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--without", "banjo"], "no stem 'banjo'"),
        (["--gain", "drums=20"], "from 0 to 4"),
        (["--without", "drums", "--gain", "drums=1"], "drums has a gain and is left out"),
        (["--song", "Rainy"], "has no stems of 'Rainy'"),
        (["--key", "13"], "from -12 to 12"),
        (["--out", "mix.txt"], "cannot be written as .txt. Choose .mp3, .wav or .flac"),
    ],
)
def test_impossible_mix_is_refused(
    folder: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    assert main(["mix", str(folder), *arguments]) == 2
    assert words in capsys.readouterr().err and sorted(folder.iterdir()) == before


def test_folder_with_two_songs_needs_a_choice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in list(folder.glob("Sunny - *.flac")):
        path.with_name(path.name.replace("Sunny", "Rainy")).write_bytes(path.read_bytes())
    assert main(["mix", str(folder)]) == 2
    assert "Rainy (mini); Sunny (mini)" in capsys.readouterr().err
    assert main(["mix", str(folder), "--song", "Rainy"]) == 0
    assert (folder / "Rainy (mix).mp3").is_file()
