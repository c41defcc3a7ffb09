"""Find devices: a package in place of torch answers in a real child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli.doctor import display_vendors

ROOT = Path(__file__).parents[3]
TORCH = """
class cuda:
    device_count = staticmethod(lambda: {cuda})
class xpu:
    device_count = staticmethod(lambda: {xpu})
class backends:
    class mps:
        is_available = staticmethod(lambda: False)
"""
FIND = """
import asyncio, json, sys
from engine.errors import DeviceNotFound
from engine.pool.devices import find_devices, torch_build
try:
    found = asyncio.run(find_devices(sys.argv[1:]))
except DeviceNotFound as error:
    found = error.message
print(json.dumps([torch_build(), found]))
assert "torch" not in sys.modules
"""


def find(folder: Path, *names: str, build: str, torch: str) -> list[object]:
    """Return the build and the devices, with a torch whose version.py and code are given."""
    package = folder / "torch"
    package.mkdir()
    (package / "version.py").write_text(build)
    (package / "__init__.py").write_text(torch)
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", FIND, *names], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: list[object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("version", "cuda", "xpu", "kind", "devices"),
    [
        ("cuda = '13.0'", 2, 1, "cuda", ["cuda:0", "cuda:1"]),
        ("cuda = None\nhip = '7.1'", 1, 0, "rocm", ["cuda:0"]),
        ("cuda = None\nhip = None\nxpu = '2026.0'", 0, 2, "xpu", ["xpu:0", "xpu:1"]),
        ("cuda = '13.0'", 0, 0, "cuda", ["cpu"]),
    ],
)
def test_auto_is_all_gpus_of_the_best_kind(
    tmp_path: Path, version: str, cuda: int, xpu: int, kind: str, devices: list[str]
) -> None:
    torch = TORCH.format(cuda=cuda, xpu=xpu)
    assert find(tmp_path, "auto", build=version, torch=torch) == [kind, devices]


@pytest.mark.skipif(sys.platform == "darwin", reason="asks every build about MPS")
def test_cpu_build_is_not_imported(tmp_path: Path) -> None:
    assert find(tmp_path, "auto", build="cuda = None", torch="raise SystemExit(1)") == ["cpu", ["cpu"]]


def test_crash_of_a_driver_leaves_the_cpu(tmp_path: Path) -> None:
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
    assert find(tmp_path, "auto", build="cuda = '13.0'", torch=crash) == ["cuda", ["cpu"]]


def test_short_names_mean_the_first_device(tmp_path: Path) -> None:
    torch = TORCH.format(cuda=1, xpu=1)
    assert find(tmp_path, "cuda", "xpu", "cpu", build="cuda = '13.0'", torch=torch)[1] == ["cuda:0", "xpu:0", "cpu"]


def test_refusal_names_the_devices_that_exist(tmp_path: Path) -> None:
    _, message = find(tmp_path, "cuda:9", build="cuda = '13.0'", torch=TORCH.format(cuda=1, xpu=0))
    assert "no device cuda:9 " in str(message) and "auto, cuda:0, cpu" in str(message)


def test_graphics_cards_are_found_on_the_bus(tmp_path: Path) -> None:
    for name, kind, vendor in (("0", "0x030000", "0x10de"), ("1", "0x038000", "0x8086"), ("2", "0x020000", "0x1002")):
        device = tmp_path / f"0000:00:0{name}.0"
        device.mkdir()
        (device / "class").write_text(f"{kind}\n")
        (device / "vendor").write_text(f"{vendor}\n")
    assert display_vendors(tmp_path) == {"NVIDIA", "Intel"}
