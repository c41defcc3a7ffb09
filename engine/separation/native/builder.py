"""The build of the compiled library: a process of its own with the lowest priority, into a shared folder. Without a
compiler the log says so once, and nothing is built."""

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
from collections.abc import Sequence

from engine.errors import FolderNotPrivate
from engine.process.environment import computing_environment
from engine.process.private_files import private_folder
from engine.separation.native.files import FAILURE_EXPIRES_S, KernelFiles

log = logging.getLogger(__name__)


def compiler() -> list[str]:
    """The compiler's command, which `CXX` may name with arguments; empty if `CXX` cannot be read."""
    try:
        return shlex.split(os.environ.get("CXX", "")) or ["g++"]
    except ValueError:
        return []


def compiler_version() -> str:
    """The compiler's command and the first line of its version, for the record of a failed build."""
    try:
        shown = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, IndexError, ValueError, subprocess.TimeoutExpired):
        return "none"
    return " ".join([*compiler(), "-", shown.stdout.partition("\n")[0].strip()])


class Builder:
    """Used by several threads at once."""

    def __init__(self, files: KernelFiles, command: Sequence[str] = ()) -> None:
        """`command`: the build's, if not the usual one."""
        self._files = files
        self._command = command or (
            sys.executable, "-m", "engine.separation.build_kernels", str(files.folder), files.key,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._said: set[str] = set()

    def has_compiler(self) -> bool:
        return bool(compiler()) and shutil.which(compiler()[0]) is not None

    def start(self) -> None:
        """Build, at most once a day. The build leaves KEY.so or KEY.failed in the folder, and ends with its stdin."""
        if not self.has_compiler():
            self.say("There is no C++ compiler here, so networks run in eager mode.")
            return
        with self._lock:
            if self._process is not None:
                if self._process.poll() is None:
                    return
                self._record_crash(self._process.returncode)
                if time.monotonic() - self._started_at < FAILURE_EXPIRES_S:
                    return
                self._end(self._process)
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
                self.say(f"The kernels cannot be built in {self._files.folder} ({error}); networks run in eager mode.")
                return
        log.info("building faster kernels in the background, %s/%s", self._files.folder, self._files.key)

    def wait(self) -> None:
        """Wait for the build that is under way."""
        if self._process is not None:
            self._process.wait()
            self.close()

    def close(self) -> None:
        """End a build that is under way."""
        with self._lock:
            if self._process is not None:
                self._end(self._process)

    def say(self, sentence: str) -> None:
        """Log a sentence once."""
        if sentence not in self._said:
            self._said.add(sentence)
            log.info(sentence)

    def _record_crash(self, code: int) -> None:
        """Record a build that a signal ended, which left no reason itself."""
        if code < 0 and not self._files.library.is_file():
            reason = f"the build was ended by signal {-code}"
            self.say(f"The kernels could not be built ({reason}); networks run in eager mode.")
            with contextlib.suppress(OSError):
                self._files.record_failure(reason, compiler_version())

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()  # it ends itself, and the compilers that it started
        process.wait()
