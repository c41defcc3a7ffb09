"""`python -m engine doctor`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def doctor(data: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine", "doctor"], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "STEMIFY_DATA_DIR": str(data), "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip


def test_working_machine_is_ready(tmp_path: Path) -> None:
    done = doctor(tmp_path / "data")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[-1].startswith("Ready: ")
    assert lines[-1].endswith("The first song waits for the download of htdemucs (84 MB).")
    assert any(line.startswith("cpu ") and line.endswith("works") for line in lines)
    assert any(line.split()[:2] == ["mini", "ready,"] for line in lines)


def test_unusable_settings_end_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = doctor(tmp_path / "file", STEMIFY_WORKERS__DEVICES="xpu:99")
    assert done.returncode == 1
    *_, device, folder = done.stdout.splitlines()
    assert "has no device xpu:99 that PyTorch can use" in device and "STEMIFY_WORKERS__DEVICES" in device
    assert f"The data folder {tmp_path / 'file'} cannot be written" in folder
    assert "Traceback" not in done.stderr
