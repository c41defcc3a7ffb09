"""The files of a compiled library: the library, its checksum, the record of a failure and the marker of a first use."""

from __future__ import annotations

import fcntl
import os
import time
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

FAILURE_EXPIRES_S = 24 * 3600.0


class NativeFiles:
    """KEY.so, KEY.sha256, KEY.failed and KEY.trying in one folder, which several processes may share."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key
        self.library = folder / f"{key}.so"
        self._checksum = folder / f"{key}.sha256"
        self._failed = folder / f"{key}.failed"

    def publish(self, built: Path) -> None:
        """Move a library into place; a power cut leaves all of it or nothing."""
        checksum = built.with_suffix(".sha256")
        checksum.write_text(f"{_digest(built)}\n")
        for path in (built, checksum):
            _sync(path)
        checksum.replace(self._checksum)  # first: a library without a checksum counts as damaged
        built.replace(self.library)
        _sync(self.folder)

    def check(self) -> None:
        """Raise `OSError` if the library differs from its checksum."""
        expected = self._checksum.read_text().strip() if self._checksum.is_file() else "missing"
        if expected != _digest(self.library):
            raise OSError("the file is damaged: its checksum does not match")

    def failure(self, compiler: str) -> str | None:
        """Return the reason of a failure within the last day with this compiler, or None."""
        try:
            reason, age_s = self._failed.read_text(errors="replace"), time.time() - self._failed.stat().st_mtime
        except OSError:
            return None
        return reason if abs(age_s) < FAILURE_EXPIRES_S and f"compiler: {compiler}\n" in reason else None

    def record_failure(self, reason: str, compiler: str) -> None:
        """Remove the library and keep the reason."""
        self.library.unlink(missing_ok=True)
        self._checksum.unlink(missing_ok=True)
        self._failed.write_text(f"{reason.strip()}\ncompiler: {compiler}\n")

    def forget_failure(self) -> None:
        self._failed.unlink(missing_ok=True)


class FirstUse:
    """A marker that exists while a process loads a library and runs its first pass.

    A crashed process leaves it behind, unlocked; a running process holds its lock.
    """

    def __init__(self, files: NativeFiles) -> None:
        self._path = files.folder / f"{files.key}.trying"
        self._handle: int | None = None
        self._users = 0

    def begin(self) -> bool:
        """Set the marker; return False while another process holds it. Raises `CrashedBefore`, `OSError`."""
        if self._handle is None:
            self._handle = self._new()
        if self._handle is None:
            self._raise_if_crashed()
            return False
        self._users += 1
        return True

    def end(self) -> None:
        """Remove the marker when every `begin` has been matched."""
        self._users -= 1
        if self._users <= 0:
            self.close()

    def close(self) -> None:
        """Remove the marker if this process holds it."""
        handle, self._handle, self._users = self._handle, None, 0
        if handle is not None:
            self._path.unlink(missing_ok=True)
            os.close(handle)

    def _new(self) -> int | None:
        """Create the marker, locked before it becomes visible; return None if it exists."""
        unseen = self._path.with_suffix(f".{uuid4().hex}")
        handle = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.link(unseen, self._path)
        except FileExistsError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        finally:
            unseen.unlink()
        return handle

    def _raise_if_crashed(self) -> None:
        """Raise `CrashedBefore` and remove the marker if its process has ended."""
        try:
            with self._path.open("rb") as marker:
                fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(marker.fileno()), self._path.stat()):
                    self._path.unlink()
                    raise CrashedBefore
        except (BlockingIOError, FileNotFoundError):
            return  # its process is running, or has just removed it


class CrashedBefore(Exception):
    """A process ended in the first pass of a library."""


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
