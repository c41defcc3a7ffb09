"""What is compiled for this machine: by one process at a time with the lowest priority, into a folder, each thing tried
once. Where there is no compiler it is said once, and nothing is built."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from torch import Tensor

log = logging.getLogger(__name__)

_FAITHFUL_DB = 100.0  # above the 90 dB that separation promises


def compiler() -> str:
    return os.environ.get("CXX", "g++")


@dataclass(frozen=True)
class Building:
    """`python -m module FOLDER KEY`, with `line` on its stdin, is to leave KEY.so or KEY.failed in the folder, and to
    end when its stdin does."""

    module: str
    key: str
    line: str = ""
    env: dict[str, str] = field(default_factory=dict)


class Builder:
    """Used by several threads at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._tried: set[str] = set()
        self._said: set[str] = set()

    def has_compiler(self) -> bool:
        return shutil.which(compiler()) is not None

    def start(self, building: Building) -> None:
        """Unless another one is at work."""
        if not self.has_compiler():
            self.say("There is no C++ compiler here, so networks run in eager mode.")
            return
        with self._lock:
            if building.key in self._tried or (self._process is not None and self._process.poll() is None):
                return  # one at a time, and each once: a builder that was killed would be killed again
            self._tried.add(building.key)
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{building.key}.log").open("wb") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", building.module, str(self._folder), building.key],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=os.environ | building.env,
                )
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(building.line.encode() + b"\n")
                self._process.stdin.flush()
        log.info("building faster kernels in the background, %s/%s", self._folder, building.key)

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
                with contextlib.suppress(BrokenPipeError):  # what it never read
                    self._process.stdin.close()  # it ends itself, and the compilers that it started
                self._process.wait()

    def say(self, sentence: str) -> None:
        """Once."""
        if sentence not in self._said:
            self._said.add(sentence)
            log.info(sentence)


def run(build: Callable[[Path, str, str], None]) -> None:
    """The other side of `Builder.start`: `build(folder, key, line)`, whose failure is written down."""
    folder, key = Path(sys.argv[1]), sys.argv[2]
    logging.basicConfig(level=logging.INFO)
    line = bytearray()
    while not line.endswith(b"\n"):  # unbuffered: the thread below reads on from here
        line += os.read(0, 1) or b"\n"
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    os.nice(19)
    try:
        build(folder, key, line.decode())
    except Exception as error:
        (folder / f"{key}.failed").write_text(f"{error}\n")
        raise


def check_faithful(what: str, expected: Tensor, found: Tensor) -> None:
    """Raises `RuntimeError` if `found` is too far from what torch gives. `what`: "the … is"."""
    error = float((expected.double() - found.double()).square().sum())
    snr_db = 10 * math.log10(float(expected.double().square().sum()) / max(error, 1e-300))
    if not snr_db > _FAITHFUL_DB:
        raise RuntimeError(f"{what} only within {snr_db:.0f} dB of the eager one")


def check_faster(what: str, eager: Callable[[], object], compiled: Callable[[], object]) -> None:
    """Raises `RuntimeError` unless `compiled` takes fewer CPU seconds. `what`: "the … is"."""
    eager_s, compiled_s = (min(_cpu_s(way) for _ in range(3)) for way in (eager, compiled))
    log.info("CPU seconds: eager %.3f, compiled %.3f", eager_s, compiled_s)
    if compiled_s > eager_s:
        raise RuntimeError(f"{what} not faster: {compiled_s:.3f} CPU s, eager {eager_s:.3f}")


def _cpu_s(way: Callable[[], object]) -> float:
    began = time.process_time()
    way()
    return time.process_time() - began


def _end_with_stdin() -> None:
    while os.read(0, 64):
        pass
    os.killpg(0, signal.SIGKILL)  # and the compilers that are at work


def cpu_flags() -> str:
    """Tells processors apart by what they can do."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        telling = {line for line in lines if line.startswith(("model name", "flags", "Features"))}  # of every core
        return sha256("\n".join(sorted(telling)).encode()).hexdigest()[:12]
    return platform.processor()
