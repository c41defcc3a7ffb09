"""What is compiled for a CPU: built once per machine, by a process of its own with the lowest priority, and taken up
between two segments when it is there. Until then, and wherever there is no compiler, torch does the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import FolderNotPrivate
from engine.separation import native_products
from engine.separation.builder import Builder
from engine.separation.native_products import NativeProducts
from engine.separation.products import Products

_LOOK_AGAIN_S = 2.0


class Kernels:
    """The products (`native`) that are compiled in one folder. They are the same for every network."""

    def __init__(self, folder: Path, *, build_after_s: float = 5.0) -> None:
        """`build_after_s`: seconds of eager work after which it is worth some seconds of building (inf: only what is
        there is used)."""
        self._key = native_products.library_key()
        self._library = folder / f"{self._key}.so"
        self._build_after_s = build_after_s
        self._lock = threading.Lock()
        self._builder = Builder(folder)
        self._with_tiles: Products | None = None
        self._with_vectors: Products | None = None

    def products_for(self, member: Any, spent_s: float) -> Products | None:
        """What suits a network best, if it is built. `spent_s`: seconds of eager work so far."""
        with self._lock:
            if self._with_vectors is None:
                self._look(spent_s)
            return self._with_tiles if native_products.fills_tiles(member) else self._with_vectors

    def build_now(self) -> str | None:
        """Without waiting until it is worth it; why it cannot be had, if so."""
        if self._library.is_file():
            return None
        if not self._builder.has_compiler():
            return "there is no C++ compiler here"
        failed = self._library.with_suffix(".failed")
        failed.unlink(missing_ok=True)
        self._builder.start(self._key)
        self._builder.wait()
        if self._library.is_file():
            return None
        return failed.read_text().strip() if failed.is_file() else "it was not built"

    def close(self) -> None:
        """End a build that is under way."""
        self._builder.close()

    def _look(self, spent_s: float) -> None:
        failed = self._library.with_suffix(".failed")
        if self._library.is_file():
            try:
                vectors = NativeProducts(self._library)
                self._with_tiles = native_products.on_tiles(self._library) or vectors
                self._with_vectors = vectors
            except FolderNotPrivate as error:
                self._builder.say(f"{error} Networks run in eager mode.")
            except (OSError, AttributeError) as error:
                self._builder.say(f"The kernels in {self._library} cannot be used ({error}); eager mode it is.")
                self._library.unlink(missing_ok=True)
                failed.write_text(f"{error}\n")
        elif spent_s >= self._build_after_s and not failed.exists():
            try:
                self._builder.start(self._key)
            except (FolderNotPrivate, OSError) as error:
                self._builder.say(f"No faster kernels are built: {error} Networks run in eager mode.")


class Switch:
    """What a network is multiplied with now: looks for something faster now and then, until it has it."""

    def __init__(self, find: Callable[[float], Products | None]) -> None:
        """`find(seconds of eager work so far)`."""
        self._find = find
        self._lock = threading.Lock()
        self._found: Products | None = None
        self._look_at = 0.0
        self._eager_s = 0.0  # of work so far

    def __call__(self) -> Products | None:
        with self._lock:
            if self._found is None and time.monotonic() >= self._look_at:
                self._found = self._find(self._eager_s)
                self._look_at = time.monotonic() + _LOOK_AGAIN_S
            return self._found

    def worked(self, seconds: float) -> None:
        """In eager mode."""
        with self._lock:
            self._eager_s += seconds
