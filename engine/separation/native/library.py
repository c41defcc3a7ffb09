"""The native library of a CPU: found, verified, built in the background, and used from the next segment on.

Each machine builds it once. Until then, and without a compiler, networks run in eager mode on torch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.errors import FolderNotPrivate
from engine.process.environment import computing_environment
from engine.process.private_files import check_code, private_folder
from engine.separation.native import ops as native_ops
from engine.separation.native.files import FAILURE_EXPIRES_S, CrashedBefore, FirstUse, NativeFiles
from engine.separation.native.ops import NativeOps
from engine.separation.ops.torch_ops import TorchOps

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 2.0
_EAGER = "networks run in eager mode"


class NativeLibrary:
    """The library in one folder; all networks share it."""

    def __init__(self, folder: Path, *, build_after_s: float = 5.0) -> None:
        """`build_after_s`: seconds of eager work before a build is worth its time; inf never builds."""
        self.files = NativeFiles(folder, native_ops.library_key())
        self._build_after_s = build_after_s
        self._lock = threading.Lock()
        self._builder = Builder(self.files)
        self._first_use = FirstUse(self.files)
        self._compiler = compiler_version()
        self._retry_at = 0.0  # after a failure
        self._tiles: TorchOps | None = None
        self._vectors: TorchOps | None = None

    def ops_for(self, member: Any, spent_s: float) -> TorchOps | None:
        """Return the fastest ops for a network; None if the library is not usable yet.

        `spent_s`: seconds of eager work so far. The caller calls `end_first_pass` after its first pass. A process that
        crashes before leaves a marker, so that the next one stays in eager mode.
        """
        with self._lock:
            if not self._is_built(spent_s) or not self._may_use():
                return None
            return self._tiles if native_ops.fills_tiles(member) else self._vectors

    def end_first_pass(self) -> None:
        """Remove the marker after a first pass, whether it succeeded or raised."""
        with self._lock:
            self._first_use.end()

    def build_now(self) -> str | None:
        """Build and wait; return the reason if there is still no library."""
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
        """Stop a running build and remove the marker of a first use."""
        self._builder.close()
        with self._lock:
            self._first_use.close()

    def _is_built(self, spent_s: float) -> bool:
        if self._vectors is not None:
            return True
        if time.monotonic() < self._retry_at or self.files.failure(self._compiler) is not None:
            return False
        if self.files.library.is_file():
            return True
        if spent_s >= self._build_after_s:
            self._builder.start()
        return False

    def _may_use(self) -> bool:
        """Begin a first use and load the library; return False to stay in eager mode for now."""
        try:
            if not self._first_use.begin():
                return False
        except CrashedBefore:
            self._reject("a process ended in its first pass")
            return False
        except OSError as error:
            self._builder.log_once(f"The native library in {self.files.folder} cannot be used ({error}); {_EAGER}.")
            return False
        if self._vectors is None:
            try:
                self._load()
            except FolderNotPrivate as error:
                self._first_use.end()
                self._builder.log_once(f"{error} Networks run in eager mode.")
                return False
            except (OSError, AttributeError) as error:
                self._first_use.end()
                self._reject(str(error))
                return False
        return True

    def _load(self) -> None:
        check_code(self.files.library)
        self.files.check()
        vectors = NativeOps(self.files.library)
        self._tiles = native_ops.on_tiles(self.files.library) or vectors
        self._vectors = vectors

    def _reject(self, reason: str) -> None:
        self._retry_at = time.monotonic() + FAILURE_EXPIRES_S
        self._tiles = self._vectors = None
        self._builder.log_once(f"The native library {self.files.library} cannot be used ({reason}); {_EAGER}.")
        with contextlib.suppress(OSError):
            self.files.record_failure(reason, self._compiler)


class OpsSwitch:
    """Selects the ops of a network's next pass: torch's until faster ones are found."""

    def __init__(self, find: Callable[[float], TorchOps | None], end_first_pass: Callable[[], None]) -> None:
        """`find(seconds of eager work so far)`; `end_first_pass` is called after the first pass with its result."""
        self._find = find
        self._end_first_pass = end_first_pass
        self._lock = threading.Lock()
        self._ops: TorchOps | None = None
        self._has_passed = False
        self._retry_at = 0.0
        self._eager_s = 0.0

    def __call__(self) -> TorchOps | None:
        with self._lock:
            if self._ops is None and time.monotonic() >= self._retry_at:
                self._ops = self._find(self._eager_s)
                self._retry_at = time.monotonic() + _RETRY_AFTER_S
            return self._ops

    def record_pass(self, ops: TorchOps | None, seconds: float) -> None:
        """Record the duration of a pass with `ops`."""
        with self._lock:
            if ops is None:
                self._eager_s += seconds
            elif not self._has_passed:
                self._has_passed = True
                self._end_first_pass()


class Builder:
    """Runs the build in a child process at the lowest priority. Thread-safe."""

    def __init__(self, files: NativeFiles, command: Sequence[str] = ()) -> None:
        """`command`: replaces the build's command in tests."""
        self._files = files
        self._command = command or (
            sys.executable, "-m", "engine.separation.build_native", str(files.folder), files.key,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._logged: set[str] = set()

    def has_compiler(self) -> bool:
        return bool(compiler()) and shutil.which(compiler()[0]) is not None

    def start(self) -> None:
        """Start a build, at most once a day.

        The build leaves KEY.so or KEY.failed in the folder. It ends when its stdin does.
        """
        if not self.has_compiler():
            self.log_once(f"There is no C++ compiler here, so {_EAGER}.")
            return
        with self._lock:
            if self._process is not None:
                if self._process.poll() is None:
                    return
                self._record_crash(self._process.returncode)
                if time.monotonic() - self._started_at < FAILURE_EXPIRES_S:
                    return
                self._stop(self._process)
            try:
                private_folder(self._files.folder)
                with (self._files.folder / f"{self._files.key}.log").open("wb") as output:
                    self._process = subprocess.Popen(
                        self._command,
                        stdin=subprocess.PIPE,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        env=computing_environment(),
                    )
                self._started_at = time.monotonic()
            except (FolderNotPrivate, OSError) as error:
                self.log_once(f"The native library cannot be built in {self._files.folder} ({error}); {_EAGER}.")
                return
        log.info("building the native library in the background, %s/%s", self._files.folder, self._files.key)

    def wait(self) -> None:
        """Wait for the running build."""
        if self._process is not None:
            self._process.wait()
            self.close()

    def close(self) -> None:
        """Stop the running build."""
        with self._lock:
            if self._process is not None:
                self._stop(self._process)

    def log_once(self, sentence: str) -> None:
        if sentence not in self._logged:
            self._logged.add(sentence)
            log.info(sentence)

    def _record_crash(self, code: int) -> None:
        """Record a build that a signal ended before it could record its failure."""
        if code < 0 and not self._files.library.is_file():
            reason = f"the build was ended by signal {-code}"
            self.log_once(f"The native library could not be built ({reason}); {_EAGER}.")
            with contextlib.suppress(OSError):
                self._files.record_failure(reason, compiler_version())

    @staticmethod
    def _stop(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()  # the build then kills itself and its compilers
        process.wait()


def compiler() -> list[str]:
    """Return the compiler's command from `CXX`, which may have arguments; empty if `CXX` cannot be parsed."""
    try:
        return shlex.split(os.environ.get("CXX", "")) or ["g++"]
    except ValueError:
        return []


def compiler_version() -> str:
    """Return the compiler's command and the first line of its version."""
    try:
        shown = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, IndexError, ValueError, subprocess.TimeoutExpired):
        return "none"
    return " ".join([*compiler(), "-", shown.stdout.partition("\n")[0].strip()])
