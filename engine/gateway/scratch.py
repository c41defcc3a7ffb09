"""A worker's own folder on its machine: scratch that nobody else clears there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from uuid import uuid4

from engine.process.private_files import private_folder


def create_scratch_dir(root: Path) -> Path:
    """Make a folder under `root` for as long as this process lives, and remove those of processes that died.

    Raises `FolderNotPrivate` when another user could change what is in it.
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
    taken = folder.with_suffix(".taken")
    fcntl.flock(os.open(taken, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)  # let go when the process ends
    taken.rename(folder.with_suffix(".lock"))  # not before it is held
    return folder
