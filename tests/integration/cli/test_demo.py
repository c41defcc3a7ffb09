"""The demo, in a fresh clone without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_demo_separates_song_and_prints_report(tmp_path: Path) -> None:
    out = tmp_path / "demo-out"
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "engine", "demo", "--out", str(out)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stems = ("vocals", "drums", "bass", "other")
    names = {"Stemify sample song.wav", "waveform.png", *(f"Stemify sample song - {stem} - mini.wav" for stem in stems)}
    assert {path.name for path in out.iterdir()} == names
    assert all(name in done.stdout for name in names)
    for stem in stems:
        row = re.search(rf"^{stem} +\S+ dBFS +(-?\d+\.\d) +(-?\d+\.\d)", done.stdout, re.MULTILINE)
        assert row is not None, done.stdout
        assert float(row[2]) > float(row[1]), f"{stem} scores lower than the mix"
        facts = rf"^   {stem} +-\d+\.\d dBFS, peak -?\d+\.\d dBFS"
        assert re.search(facts, done.stdout, re.MULTILINE), done.stdout
    card = done.stdout[done.stdout.index("Trust card") :]
    assert re.search(r"in no stem +-\d+\.\d dB of the mix", card) and re.search(r"plan .* shifts 1, seed \d+", card)
    assert "100%" in done.stderr
