"""Scratch folders of workers on machines without a main process, which would delete leftovers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from uuid import uuid4

from engine.process.private_files import private_folder


def create_scratch_dir(root: Path) -> Path:
    """Create a folder under `root` for this process, and delete the folders of dead processes.

    Raises `FolderNotPrivate` if other users can write to `root`.
    """
    root = private_folder(root)
    for old in root.glob("*.lock"):
        with contextlib.suppress(OSError):
            handle = os.open(old, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old.with_suffix(""), ignore_errors=True)
                old.unlink()
            finally:
                os.close(handle)
    folder = root / uuid4().hex
    folder.mkdir()
    new_lock = folder.with_suffix(".taken")
    fcntl.flock(os.open(new_lock, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)  # released when the process ends
    new_lock.rename(folder.with_suffix(".lock"))  # visible to others only once it is locked
    return folder
