"""Free space reserved by uploads."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import DiskSpaceLow
from engine.storage.disk_space import Room
from tests.fixtures.small_disk import SmallDisk


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    return SmallDisk(tmp_path, 1000, monkeypatch)


def test_uploads_together_leave_the_reserve(disk: SmallDisk) -> None:
    room = Room(disk.root, 400)
    room.reserve(300)
    second = room.reserve(300)
    for refused in (room.reserve, room.check):
        with pytest.raises(DiskSpaceLow):
            refused(1)
    second.close()
    room.reserve(300)


def test_written_bytes_are_not_counted_twice(disk: SmallDisk) -> None:
    room = Room(disk.root, 400)
    first = room.reserve(300)
    first.spend(300)
    (disk.root / "song").write_bytes(bytes(300))
    room.check(300)
    with pytest.raises(DiskSpaceLow):
        room.check(301)


def test_upload_stops_when_others_fill_the_disk(disk: SmallDisk) -> None:
    room = Room(disk.root, 400)
    upload = room.reserve(300)
    upload.spend(100)
    (disk.root / "stems").write_bytes(bytes(590))
    upload.spend(10)
    with pytest.raises(DiskSpaceLow):
        upload.spend(11)


def test_upload_longer_than_declared_is_still_checked(disk: SmallDisk) -> None:
    room = Room(disk.root, 400)
    upload = room.reserve(10)
    upload.spend(600)
    with pytest.raises(DiskSpaceLow):
        upload.spend(601)


def test_accepted_job_may_use_the_reserve(disk: SmallDisk) -> None:
    room = Room(disk.root, 900)
    with room.granted(500), pytest.raises(DiskSpaceLow):
        room.check()
    room.check(100)
