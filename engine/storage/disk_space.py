"""Free space on the disk of the data folder, reserved by the running uploads."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import DiskSpaceLow

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 600.0
_WARNING_INTERVAL_S = 60.0


class Reservation:
    """The bytes that one upload may still write."""

    def __init__(self, disk_space: DiskSpace, left_bytes: int) -> None:
        self._disk_space = disk_space
        self.left_bytes = left_bytes

    def spend(self, count_bytes: int) -> None:
        """Take `count_bytes` before writing them, from any thread. Raises `DiskSpaceLow`."""
        self._disk_space.spend(self, count_bytes)

    def close(self) -> None:
        """Release the bytes that were not written."""
        self._disk_space.close(self)


class DiskSpace:
    """Free space above `reserve_bytes`, for uploads; the reserve is for accepted jobs and the database."""

    def __init__(self, root: Path, reserve_bytes: int) -> None:
        self._root = root
        self.reserve_bytes = reserve_bytes
        self._open: set[Reservation] = set()
        self._lock = threading.Lock()
        self._warned_at_s = -math.inf

    def check(self, size_bytes: int = 0) -> None:
        """Raise `DiskSpaceLow` unless `size_bytes` fit beside the bytes reserved by uploads."""
        with self._lock:
            self._check(size_bytes)

    def reserve(self, size_bytes: int) -> Reservation:
        """Reserve `size_bytes` for one upload, until `Reservation.close`. Raises `DiskSpaceLow`."""
        with self._lock:
            self._check(size_bytes)
            return self._add(size_bytes)

    @contextmanager
    def grant(self, size_bytes: int) -> Iterator[None]:
        """Reserve `size_bytes` for an accepted job, which may use the reserve."""
        with self._lock:
            reservation = self._add(size_bytes)
        try:
            yield
        finally:
            self.close(reservation)

    def _add(self, size_bytes: int) -> Reservation:
        reservation = Reservation(self, size_bytes)
        self._open.add(reservation)
        return reservation

    def spend(self, reservation: Reservation, count_bytes: int) -> None:
        with self._lock:
            self._check(count_bytes, spender=reservation)
            reservation.left_bytes = max(0, reservation.left_bytes - count_bytes)

    def close(self, reservation: Reservation) -> None:
        with self._lock:
            self._open.discard(reservation)

    def _check(self, size_bytes: int, spender: Reservation | None = None) -> None:
        free_bytes = shutil.disk_usage(self._root).free
        reserved_bytes = sum(each.left_bytes for each in self._open if each is not spender)
        if free_bytes - reserved_bytes - size_bytes < self.reserve_bytes:
            self._warn(free_bytes, reserved_bytes)
            raise DiskSpaceLow(retry_after_s=_RETRY_AFTER_S)

    def _warn(self, free_bytes: int, reserved_bytes: int) -> None:
        """Log that space is low, at most once a minute."""
        now_s = time.monotonic()
        if now_s - self._warned_at_s < _WARNING_INTERVAL_S:
            return
        self._warned_at_s = now_s
        log.warning(
            "uploads are refused, disk space is low: %d MiB free in %s, %d MiB reserved by other uploads",
            free_bytes >> 20,
            self._root,
            reserved_bytes >> 20,
        )
