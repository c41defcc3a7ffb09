"""`python -m bench.gpu`, with tiny networks on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.gpu import BARS, JOBS_AT_ONCE


def test_one_command_measures_every_bar(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--songs", "1", "--seconds", "1", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "bench.gpu", *arguments]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    measured = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["measured"] for row in measured["bars"] if row["measured"] is None] == []
    assert len(measured["bars"]) == len(BARS) + 2
    assert [(row["songs"], row["at_once"]) for row in measured["jobs"]] == [(2, count) for count in JOBS_AT_ONCE]
    assert "Against what was promised" in printed
