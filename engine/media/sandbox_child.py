"""The child process of `engine.media.sandbox`, which reads untrusted bytes.

Before it reads the song it limits its address space, CPU time and output size and gives up paths, network and new
processes (`engine.process.confinement`). The song is its standard input; decoded audio goes to an inherited
descriptor. It prints JSON lines: `{"sandbox": ["seccomp", …]}`, `{"progress": 0.5}` and finally `{"result": {…}}` or
`{"error": {…}}`. Keep the imports few: every probe waits for them.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import importlib
import json
import math
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from traceback import format_exc
from typing import Any

from engine.errors import BrokenAudio, DecodingTooExpensive, DiskFull, StemifyError, is_disk_full
from engine.media.limits import LEEWAY_S, MediaLimits
from engine.process.confinement import confine, die_with_parent

OUT_OF_MEMORY = 3
"""Exit status when memory ran out."""

_HIGHEST_OUT_RATE = 192_000
_SONG = 0  # standard input
_OPENING_SHARE = 0.2  # of the CPU time, until the first packet is decoded
_TINY_SONG = struct.pack(
    "<4sI4s4sIHHIIHH4sI4s", b"RIFF", 40, b"WAVE", b"fmt ", 16, 1, 2, 44100, 176_400, 4, 16, b"data", 4, bytes(4)
)


def main(arguments: list[str]) -> None:
    answer_request(arguments, _run, BrokenAudio)  # a library failed on a damaged file: refuse the file, log the place


def answer_request(
    arguments: list[str], run: Callable[[dict[str, Any]], dict[str, Any]], unexpected: type[StemifyError]
) -> None:
    """Run a request, print its result or error, and end the process.

    `unexpected` is the error for an exception of any other kind.
    """
    os.umask(0o077)
    request = json.loads(arguments[0])
    die_with_parent(parent_pid=request["parent_pid"])
    try:
        answer: dict[str, Any] = {"result": run(request)}
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except StemifyError as error:
        answer = {"error": {"code": error.code, "message": error.message, "detail": error.detail}}
    except OSError as error:
        if error.errno == errno.ENOMEM:
            os._exit(OUT_OF_MEMORY)
        if not is_disk_full(error) and error.errno != errno.EFBIG:
            raise
        full = DecodingTooExpensive() if error.errno == errno.EFBIG else DiskFull()
        answer = {"error": {"code": full.code, "message": full.message}}
    except ImportError:  # a bug: all imports must precede `confine`
        raise
    except Exception:
        answer = {"error": {"code": unexpected.code, "message": unexpected().message, "detail": format_exc()[-800:]}}
    print_json(answer)
    sys.stdout.flush()
    os._exit(0)  # nothing to clean up, and closing a broken container can crash


def print_json(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")


def _run(request: dict[str, Any]) -> dict[str, Any]:
    limits = MediaLimits(**request["limits"])
    if request["mode"] == "probe":
        os.nice(5)  # interactive replies come first
    import av.logging

    from engine.media.decode import decode, probe

    av.logging.set_level(None)
    _import_lazy_modules(limits)
    _set_limits(request, limits)
    print_json({"sandbox": confine()})
    _limit_cpu_time(limits.timeout_s * _OPENING_SHARE)
    if request["mode"] == "probe":
        return asdict(probe(_SONG, limits, on_progress=lambda _: _limit_cpu_time(0)))
    reported_at = 0.0

    def on_progress(fraction: float) -> None:
        nonlocal reported_at
        _limit_cpu_time(0)
        now = time.monotonic()
        if now - reported_at > 0.1:
            reported_at = now
            print_json({"progress": round(fraction, 4)})
            sys.stdout.flush()

    decoded = decode(
        _SONG,
        request["out"],
        max_duration_s=limits.max_duration_s,
        max_bytes=limits.max_bytes,
        on_progress=on_progress,
    )
    result = asdict(decoded)
    result["cover"] = base64.b64encode(decoded.cover).decode() if decoded.cover else None
    return result


def _limit_cpu_time(seconds: float) -> None:
    """Let SIGPROF end this process after so much CPU time; 0 for no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _import_lazy_modules(limits: MediaLimits) -> None:
    """Import the modules that PyAV loads on first use: for streams of other kinds, and for a tiny song."""
    for name in ("subtitles.codeccontext", "subtitles.stream", "video.codeccontext", "video.stream"):
        importlib.import_module(f"av.{name}")

    from engine.media.decode import probe

    song = os.memfd_create("tiny song")
    os.write(song, _TINY_SONG)
    probe(song, limits)


def _set_limits(request: dict[str, Any], limits: MediaLimits) -> None:
    written = 0 if request["out"] is None else math.ceil((limits.max_duration_s + LEEWAY_S + 2) * _HIGHEST_OUT_RATE * 8)
    limit_resources(memory_bytes=limits.memory_bytes, cpu_s=math.ceil(limits.timeout_s), file_bytes=written)


def limit_resources(*, memory_bytes: int, cpu_s: int, file_bytes: int) -> None:
    """Limit address space, CPU time, the size of a written file and the number of open ones."""
    for resource_id, maximum in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # keep the operator's lower limit
            resource.setrlimit(resource_id, (maximum, maximum))
