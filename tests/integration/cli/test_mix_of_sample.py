"""A mix of the stems that the embedded model separates, compared with the stems that the sample song was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.cli.main import main
from engine.media.encode import StemEncoder
from engine.synth.song import sample_song
from tests.fixtures.mix_server import samples_of

pytestmark = pytest.mark.timeout(600)


def test_no_drums_mix_has_only_leakage_of_drums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    song = sample_song()
    with StemEncoder(tmp_path / "Sample.wav", format="wav", sample_rate=song.sample_rate) as encoder:
        encoder.write(song.mix)
    out = tmp_path / "out"
    song_path = str(tmp_path / "Sample.wav")
    assert main(["separate", song_path, "--model", "mini", "--format", "wav", "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["mix", str(out), "--without", "drums", "--format", "wav"]) == 0
    mix = samples_of(Path(capsys.readouterr().out.strip()), tmp_path)[0].astype(np.float64)
    assert mix.shape == song.mix.shape
    # The share of each true stem in the mix, by least squares.
    truth = np.stack([stem.ravel() for stem in song.stems.values()], axis=1).astype(np.float64)
    shares = dict(zip(song.stems, np.linalg.lstsq(truth, mix.ravel(), rcond=None)[0], strict=True))
    assert abs(shares.pop("drums")) < 0.25, "the small model leaves drums at -13 dB in the other stems"
    assert all(abs(share - 1) < 0.25 for share in shares.values()), shares
    drums = samples_of(next(out.glob("*drums*.wav")), tmp_path)[0].astype(np.float64)
    leakage = np.square(drums - song.stems["drums"]).sum()
    missing = np.square(mix - (song.mix - song.stems["drums"])).sum()
    assert missing == pytest.approx(leakage, rel=0.01), "nothing is wrong but what the drums' stem lacks"
