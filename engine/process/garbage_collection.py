"""Garbage collection in a process that answers at any time."""

from __future__ import annotations

import gc


def shorten_collections() -> None:
    """Exempt all present objects from garbage collection.

    A full collection stops every thread; with the objects of all imported modules it takes a tenth of a second.
    """
    gc.collect()
    gc.freeze()
