"""Free space reserved by uploads."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.errors import DiskSpaceLow
from engine.storage.disk_space import DiskSpace
from tests.fixtures.small_disk import SmallDisk


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    return SmallDisk(tmp_path, 1000, monkeypatch)


def test_uploads_together_leave_the_reserve(disk: SmallDisk) -> None:
    disk_space = DiskSpace(disk.root, 400)
    disk_space.reserve(300)
    second = disk_space.reserve(300)
    for refused in (disk_space.reserve, disk_space.check):
        with pytest.raises(DiskSpaceLow):
            refused(1)
    second.close()
    disk_space.reserve(300)


def test_written_bytes_are_not_counted_twice(disk: SmallDisk) -> None:
    disk_space = DiskSpace(disk.root, 400)
    first = disk_space.reserve(300)
    first.spend(300)
    (disk.root / "song").write_bytes(bytes(300))
    disk_space.check(300)
    with pytest.raises(DiskSpaceLow):
        disk_space.check(301)


def test_upload_stops_when_others_fill_the_disk(disk: SmallDisk) -> None:
    disk_space = DiskSpace(disk.root, 400)
    upload = disk_space.reserve(300)
    upload.spend(100)
    (disk.root / "stems").write_bytes(bytes(590))
    upload.spend(10)
    with pytest.raises(DiskSpaceLow):
        upload.spend(11)


def test_upload_longer_than_declared_is_still_checked(disk: SmallDisk) -> None:
    disk_space = DiskSpace(disk.root, 400)
    upload = disk_space.reserve(10)
    upload.spend(600)
    with pytest.raises(DiskSpaceLow):
        upload.spend(601)


def test_accepted_job_may_use_the_reserve(disk: SmallDisk) -> None:
    disk_space = DiskSpace(disk.root, 900)
    with disk_space.grant(500), pytest.raises(DiskSpaceLow):
        disk_space.check()
    disk_space.check(100)


def test_low_space_is_logged_once_a_minute(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk_space = DiskSpace(disk.root, 2000)
    for now_s, expected in ((1000.0, 1), (1059.0, 1), (1061.0, 2)):
        monkeypatch.setattr(time, "monotonic", lambda now_s=now_s: now_s)
        with pytest.raises(DiskSpaceLow):
            disk_space.check()
        assert [record.levelname for record in caplog.records] == ["WARNING"] * expected
