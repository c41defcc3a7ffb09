"""Compiled kernels for a CPU: built once per machine in the background, and used from the next segment on once they
exist. Until then, and wherever there is no compiler, torch does the work."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import FolderNotPrivate
from engine.process.private_files import check_code
from engine.separation.native import ops as native_products
from engine.separation.native.builder import Builder, compiler_version
from engine.separation.native.files import FAILURE_EXPIRES_S, CrashedBefore, FirstUse, KernelFiles
from engine.separation.native.ops import NativeOps
from engine.separation.ops.torch_ops import TorchOps

_LOOK_AGAIN_S = 2.0


class NativeLibrary:
    """The products (`native`) that are compiled in one folder. They are the same for every network."""

    def __init__(self, folder: Path, *, build_after_s: float = 5.0) -> None:
        """`build_after_s`: seconds of eager work after which it is worth some seconds of building (inf: only what is
        there is used)."""
        self.files = KernelFiles(folder, native_products.library_key())
        self._build_after_s = build_after_s
        self._lock = threading.Lock()
        self._builder = Builder(self.files)
        self._first_use = FirstUse(self.files)
        self._compiler = compiler_version()
        self._look_at = 0.0  # after a failure
        self._with_tiles: TorchOps | None = None
        self._with_vectors: TorchOps | None = None

    def products_for(self, member: Any, spent_s: float) -> TorchOps | None:
        """The best products for a network, if they are built. `spent_s`: seconds of eager work so far.

        After the first pass with them the caller calls `passed`; a process that does not get so far leaves a marker,
        and the next one stays in eager mode."""
        with self._lock:
            if not self._is_there(spent_s) or not self._may_use():
                return None
            return self._with_tiles if native_products.fills_tiles(member) else self._with_vectors

    def passed(self) -> None:
        """A first pass has ended, with a result or with an exception."""
        with self._lock:
            self._first_use.end()

    def build_now(self) -> str | None:
        """Without waiting until it is worth it; why it cannot be had, if so."""
        if self.files.library.is_file():
            return None
        if not self._builder.has_compiler():
            return "there is no C++ compiler here"
        self.files.forget_failure()
        self._builder.start()
        self._builder.wait()
        if self.files.library.is_file():
            return None
        return self.files.failure(self._compiler) or "it was not built"

    def close(self) -> None:
        """End a build that is under way, and remove the marker of a first use."""
        self._builder.close()
        with self._lock:
            self._first_use.close()

    def _is_there(self, spent_s: float) -> bool:
        if self._with_vectors is not None:
            return True
        if time.monotonic() < self._look_at or self.files.failure(self._compiler) is not None:
            return False
        if self.files.library.is_file():
            return True
        if spent_s >= self._build_after_s:
            self._builder.start()
        return False

    def _may_use(self) -> bool:
        """Begin a first use and load the library; False if this process stays in eager mode for now."""
        try:
            if not self._first_use.begin():
                return False
        except CrashedBefore:
            self._refuse("a process ended in its first pass")
            return False
        except OSError as error:
            self._builder.say(
                f"The kernels in {self.files.folder} cannot be used ({error}); networks run in eager mode."
            )
            return False
        if self._with_vectors is None:
            try:
                self._load()
            except FolderNotPrivate as error:
                self._first_use.end()
                self._builder.say(f"{error} Networks run in eager mode.")
                return False
            except (OSError, AttributeError) as error:
                self._first_use.end()
                self._refuse(str(error))
                return False
        return True

    def _load(self) -> None:
        check_code(self.files.library)
        self.files.check()
        vectors = NativeOps(self.files.library)
        self._with_tiles = native_products.on_tiles(self.files.library) or vectors
        self._with_vectors = vectors

    def _refuse(self, reason: str) -> None:
        self._look_at = time.monotonic() + FAILURE_EXPIRES_S
        self._with_tiles = self._with_vectors = None
        self._say_unusable(reason)
        with contextlib.suppress(OSError):
            self.files.record_failure(reason, self._compiler)

    def _say_unusable(self, reason: str) -> None:
        self._builder.say(f"The kernels in {self.files.library} cannot be used ({reason}); networks run in eager mode.")


class Switch:
    """What a network is multiplied with now: looks for something faster now and then, until it has it."""

    def __init__(self, find: Callable[[float], TorchOps | None], passed: Callable[[], None]) -> None:
        """`find(seconds of eager work so far)`; `passed()` is called after the first pass with what was found."""
        self._find = find
        self._passed = passed
        self._lock = threading.Lock()
        self._found: TorchOps | None = None
        self._has_passed = False
        self._look_at = 0.0
        self._eager_s = 0.0  # of work so far

    def __call__(self) -> TorchOps | None:
        with self._lock:
            if self._found is None and time.monotonic() >= self._look_at:
                self._found = self._find(self._eager_s)
                self._look_at = time.monotonic() + _LOOK_AGAIN_S
            return self._found

    def ended(self, products: TorchOps | None, seconds: float) -> None:
        """Note a pass with what a call returned."""
        with self._lock:
            if products is None:
                self._eager_s += seconds
            elif not self._has_passed:
                self._has_passed = True
                self._passed()
