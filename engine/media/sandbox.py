"""Read untrusted files in a sandboxed child process.

The child (`engine.media.sandbox_child`, or another module with `run_module`) starts isolated (`-I`, a minimal
environment, a new process group), gets open descriptors instead of paths, confines itself, and is killed with its group
at the deadline or when its parent ends.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from engine.clock import pause_overrun_s
from engine.errors import (
    BrokenAudio,
    Cancelled,
    DecodingTooExpensive,
    EmptyInput,
    InternalError,
    StemifyError,
    TooLarge,
    error_from_code,
)
from engine.media.decode import Probe, RawAudio
from engine.media.limits import BUSY_FACTOR, MediaLimits
from engine.media.sandbox_child import OUT_OF_MEMORY
from engine.process.cpus import usable_cpus

log = logging.getLogger(__name__)

Progress = Callable[[float], None]

_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = (
    "import importlib, sys; sys.path.insert(0, sys.argv[1]); importlib.import_module(sys.argv[2]).main(sys.argv[3:])"
)
_POLL_S = 0.05
_LONGEST_ANSWER_BYTES = 16 * 1024 * 1024


def decode_in_sandbox(
    path: Path,
    out: Path,
    *,
    limits: MediaLimits,
    cancelled: threading.Event | None = None,
    on_progress: Progress | None = None,
) -> RawAudio:
    """Decode `path` into `out`; blocks. Raises as `run_child` does."""
    result = run_child("decode", path, out, limits, cancelled=cancelled, on_progress=on_progress)
    cover = result.pop("cover")
    return RawAudio(**result, cover=base64.b64decode(cover) if cover else None)


def run_child(
    mode: str,
    path: Path,
    out: Path | None,
    limits: MediaLimits,
    *,
    cancelled: threading.Event | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the child and return its result; blocks. `mode` is "probe" or "decode" (into `out`).

    Raises the child's error, an `InputRefused`; `DecodingTooExpensive` over a limit of time or memory; `DiskFull`;
    `Cancelled` within 100 ms of the event.
    """
    with contextlib.ExitStack() as files:
        song = files.enter_context(path.open("rb"))
        raw = files.enter_context(out.open("wb")).fileno() if out else None
        return run_module(
            "engine.media.sandbox_child",
            {"mode": mode, "out": raw, "limits": asdict(limits)},
            stdin=song,
            descriptors=[] if raw is None else [raw],
            timeout_s=BUSY_FACTOR * limits.timeout_s,
            cancelled=cancelled,
            on_progress=on_progress,
        )


def start_module(
    module: str, request: dict[str, Any], *, stdin: BinaryIO | int, descriptors: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Start `main` of a module in a child process that inherits `descriptors`, with pipes from its outputs.

    The child shares our session, so that its niceness counts among all processes even with the kernel's autogroups.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _PROGRAM, str(_ROOT), module, json.dumps({**request, "parent_pid": os.getpid()})],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        env=_environment(),
        process_group=0,
    )


def run_module(
    module: str,
    request: dict[str, Any],
    *,
    stdin: BinaryIO | int = subprocess.DEVNULL,
    descriptors: Sequence[int] = (),
    timeout_s: float,
    cancelled: threading.Event | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Run `main` of a module in a child process that inherits `descriptors`, and return its result; blocks.

    Raises as `run_child` does.
    """
    child = start_module(module, request, stdin=stdin, descriptors=descriptors)
    output = _ChildOutput(on_progress)
    try:
        _read_output(child, output, time.monotonic() + timeout_s, cancelled)
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        status = child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
    return output.result(status)


async def probe_in_sandbox(path: Path, limits: MediaLimits) -> Probe:
    """Examine the file at `path`; cancelling kills the child.

    As many children run as there are cores, others wait; the deadline counts from a child's start. Raises
    `InputRefused`: `EmptyInput`, `TooLarge`, `TooLong`, `NotAudio`, `NoAudioTrack`, `BrokenAudio`,
    `DecodingTooExpensive` or a subclass.
    """
    size = path.stat().st_size
    if not size:
        raise EmptyInput
    if size > limits.max_bytes:
        raise TooLarge.over(limits.max_bytes, size)
    cancelled = threading.Event()

    def call() -> dict[str, Any]:
        if cancelled.is_set():
            raise Cancelled
        return run_child("probe", path, None, limits, cancelled=cancelled)

    work = asyncio.get_running_loop().run_in_executor(_executor(), call)
    try:
        return Probe(**await asyncio.shield(work))
    except asyncio.CancelledError:
        cancelled.set()
        with contextlib.suppress(StemifyError, asyncio.CancelledError):
            await work
        raise


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(2, usable_cpus()), thread_name_prefix="media")


def _environment() -> dict[str, str]:
    """Return the child's environment, without tokens, proxies and settings."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    # An arena of malloc for each thread would use up the limited address space.
    return kept | {
        "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
    }  # fmt: skip


@cache
def _log_sandbox(in_force: str) -> None:
    """Log the restrictions in force, once."""
    log.info("sandbox of the media child: %s", in_force or "not available here")


class _ChildOutput:
    """Parse the child's JSON lines, which come from a process that untrusted bytes may control."""

    def __init__(self, on_progress: Progress | None) -> None:
        self.stderr = b""
        self.too_late = False
        self._on_progress = on_progress
        self._rest = b""
        self._last: dict[str, Any] | None = None

    def feed(self, data: bytes) -> None:
        """Handle the complete lines of the output so far."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_ANSWER_BYTES:
            self._rest = b""
        for line in lines:
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if not isinstance(message, dict):
                    continue
                if "sandbox" in message:
                    _log_sandbox(", ".join(message["sandbox"]))
                elif "progress" in message:
                    if self._on_progress is not None:
                        self._on_progress(float(message["progress"]))
                else:
                    self._last = message

    def result(self, status: int) -> dict[str, Any]:
        """Return the result of a child that ended with `status`, or raise its error."""
        last = self._last or {}
        if isinstance(last.get("result"), dict):
            result: dict[str, Any] = last["result"]
            return result
        if isinstance(last.get("error"), dict):
            reported = last["error"]
            error = error_from_code(str(reported.get("code")), str(reported.get("message")))
            error.detail = error.detail or reported.get("detail")
            raise error
        exit_text = f"child ended with {status}: {self.stderr[-500:].decode(errors='replace').strip()}"
        if self.too_late or status in (OUT_OF_MEMORY, -signal.SIGXCPU, -signal.SIGPROF, -signal.SIGKILL):
            raise DecodingTooExpensive(detail="deadline" if self.too_late else exit_text)
        if status == -signal.SIGXFSZ:
            raise DecodingTooExpensive(detail=exit_text)
        if status < 0:  # a signal: the decoder crashed
            raise BrokenAudio("That file crashes the decoder. Please export it again.")
        raise InternalError(detail=exit_text)


def _read_output(
    child: subprocess.Popen[bytes], output: _ChildOutput, deadline: float, cancelled: threading.Event | None
) -> None:
    """Read both pipes to their end or to the deadline, which it notes in `output`. Raises `Cancelled`."""
    assert child.stdout is not None and child.stderr is not None
    checked_at = time.monotonic()
    with selectors.DefaultSelector() as pipes:
        pipes.register(child.stdout, selectors.EVENT_READ)
        pipes.register(child.stderr, selectors.EVENT_READ)
        while pipes.get_map():
            if cancelled is not None and cancelled.is_set():
                raise Cancelled
            now = time.monotonic()
            deadline += pause_overrun_s(now - checked_at, _POLL_S)
            checked_at = now
            if now > deadline:
                output.too_late = True
                return
            for key, _ in pipes.select(_POLL_S):
                data = os.read(key.fd, 65536)
                if not data:
                    pipes.unregister(key.fileobj)
                elif key.fileobj is child.stdout:
                    output.feed(data)
                else:
                    output.stderr = (output.stderr + data)[-4096:]
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
