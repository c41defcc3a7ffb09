"""Tuning of glibc's malloc.

Every segment allocates and frees tensors of several megabytes. By default glibc gets each of them from the system,
which clears every page, and returns it.
"""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 256 << 20  # free memory kept at the end of the heap
_HEAP_LIMITS_BYTES = (64 << 20, 32 << 20)  # larger blocks come from the system


def tune_malloc() -> None:
    """Keep freed memory for the next allocations. Without glibc this does nothing."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        # Older versions reject the higher limit. Without a limit, the trim threshold alone would make things worse.
        if any(library.mallopt(_M_MMAP_THRESHOLD, size_bytes) for size_bytes in _HEAP_LIMITS_BYTES):
            library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def trim_heap() -> None:
    """Return all freed memory to the system."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
