"""Lock the data folder: a second bot would take the running jobs of the first for those of a crash."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.database.errors import AlreadyRunning
from engine.errors import ConfigurationError


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold a lock on the folder of `path` and on the lock file `path` itself.

    A file can be deleted while it is locked, a folder in use cannot; some network drives lock files only. The system
    releases both locks when this process ends; child processes do not hold them. Raises `AlreadyRunning`,
    `ConfigurationError`.
    """
    with contextlib.ExitStack() as descriptors:
        try:
            for target, flags in ((path.parent, os.O_RDONLY | os.O_DIRECTORY), (path, os.O_RDWR | os.O_CREAT)):
                descriptor = os.open(target, flags, 0o600)
                descriptors.callback(os.close, descriptor)
                _lock(descriptor, path)
        except OSError as error:
            raise ConfigurationError(f"The lock file {path} cannot be made: {error.strerror}.") from error
        yield


def _lock(descriptor: int, path: Path) -> None:
    """Lock an open file or folder; a folder stays unlocked where the drive cannot lock folders."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunning(detail=str(path)) from None
    except OSError:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
