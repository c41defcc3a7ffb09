"""What is compiled for this machine: by a process of its own with the lowest priority, into a folder, tried once. Where
there is no compiler it is said once, and nothing is built."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from engine.environment import computing_environment
from engine.ownership import private_folder

log = logging.getLogger(__name__)


def compiler() -> str:
    return os.environ.get("CXX", "g++")


class Builder:
    """Used by several threads at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: set[str] = set()

    def has_compiler(self) -> bool:
        return shutil.which(compiler()) is not None

    def start(self, key: str) -> None:
        """`build_native FOLDER KEY`, which is to leave KEY.so or KEY.failed in the folder, and to end when its stdin
        does. Once: a builder that was killed would be killed again."""
        if not self.has_compiler():
            self.say("There is no C++ compiler here, so networks run in eager mode.")
            return
        with self._lock:
            if self._process is not None:
                return
            private_folder(self._folder)
            with (self._folder / f"{key}.log").open("wb") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "engine.separation.build_native", str(self._folder), key],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=computing_environment(),
                )
        log.info("building faster kernels in the background, %s/%s", self._folder, key)

    def wait(self) -> None:
        """For the build that is under way."""
        if self._process is not None:
            self._process.wait()
            self.close()

    def close(self) -> None:
        """End a build that is under way."""
        with self._lock:
            if self._process is not None:
                assert self._process.stdin is not None
                self._process.stdin.close()  # it ends itself, and the compilers that it started
                self._process.wait()

    def say(self, sentence: str) -> None:
        """Once."""
        if sentence not in self._said:
            self._said.add(sentence)
            log.info(sentence)
