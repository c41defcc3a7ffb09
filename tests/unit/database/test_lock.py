"""The lock of the data folder."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from engine.database.errors import AlreadyRunning
from engine.database.lock import exclusive_lock
from engine.errors import ConfigurationError

HOLDER = """
import subprocess, sys
from pathlib import Path
from engine.database.lock import exclusive_lock

with exclusive_lock(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    child.wait()
"""


def test_second_lock_is_refused_until_first_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive_lock(path), pytest.raises(AlreadyRunning, match="Stop"), exclusive_lock(path):
        raise AssertionError("both hold it")
    with exclusive_lock(path):
        pass


def test_killed_process_releases_lock_despite_children(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        grandchild = int(holder.stdout.readline())
        with pytest.raises(AlreadyRunning), exclusive_lock(path):
            raise AssertionError("both hold it")
        holder.kill()
        holder.wait(timeout=30)
        try:
            with exclusive_lock(path):
                pass
        finally:
            subprocess.run(["kill", "-9", str(grandchild)], check=True)


def test_deleted_lock_file_still_locks(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive_lock(path):
        path.unlink()
        with pytest.raises(AlreadyRunning), exclusive_lock(path):
            raise AssertionError("both hold it")


def test_drive_that_cannot_lock_folders_uses_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system_call = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "as NFS does")
        system_call(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "lock"
    with exclusive_lock(path), pytest.raises(AlreadyRunning), exclusive_lock(path):
        raise AssertionError("both hold it")


def test_unwritable_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError), exclusive_lock(tmp_path / "nowhere" / "lock"):
        raise AssertionError("there is no such folder")
