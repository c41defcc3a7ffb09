"""Only one bot a data folder: a second one would take the first one's running jobs for those of a crash."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import StorageFailed
from engine.store.errors import AlreadyRunning


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock file `path`. The system lets go of it when this process ends, however it ends; children that are
    started meanwhile do not hold it. Raises `AlreadyRunning`, `StorageFailed`."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageFailed(f"The lock file {path} cannot be made: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(detail=str(path)) from None
        yield
    finally:
        os.close(descriptor)
