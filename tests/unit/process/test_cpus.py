"""CPU quotas of containers, from trees as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.process import cpus
from engine.process.cpus import default_threads, usable_cpus

V1 = "3:memory:/docker/a\n2:cpu,cpuacct:/docker/a\n"


@pytest.fixture(autouse=True)
def sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "affinity_cpus", lambda: 16)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, 0),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "350000 100000"}, 3),
        ("0::/\n", {"cpu.max": "1600000 100000"}, 0),
        ("0::/\n", {"cpu.max": "damaged"}, 0),
        ("0::/\n", {}, 0),
        ("0::/a/b/c\n", {"a/cpu.max": "400000 100000", "a/b/c/cpu.max": "max 100000"}, 4),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "800000 100000"}, 2),
        ("0::/gone\n", {"cpu.max": "300000 100000"}, 3),
        (
            V1,
            {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000"},
            3,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "50000"}, 4),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 0),
    ],
)
def test_quota_gives_whole_threads(tmp_path: Path, own: str, files: dict[str, str], expected: int) -> None:
    root, own_file = tmp_path / "cgroup", tmp_path / "own"
    own_file.write_text(own)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    assert default_threads(root, own_file) == expected
    assert usable_cpus(root, own_file) == (expected or 16)


def test_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert default_threads(tmp_path / "none", tmp_path / "none") == 0
