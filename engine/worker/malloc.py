"""What a process does with memory that it has freed. Tensors of some megabytes come and go with every segment; glibc
would get each from the system, which clears every page of it, and give it back."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 256 << 20  # at the end of the heap
_OF_HEAP_BYTES = (64 << 20, 32 << 20)  # what is larger comes from the system by itself


def tune_malloc() -> None:
    """Some of it, for what is allocated next. Other libraries than glibc are left as they are."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        # Older versions refuse the higher one; with the other threshold alone every tensor would come from the system.
        if any(library.mallopt(_M_MMAP_THRESHOLD, size_bytes) for size_bytes in _OF_HEAP_BYTES):
            library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def trim_heap() -> None:
    """All of it, to the system."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
