"""The short-lived process that reads untrusted bytes (`engine.media.sandbox` starts it).

It bounds and confines itself before it reads the song: address space, CPU time, size of its output, no paths, no
network, no new processes (`engine.process.confinement`). The song is its standard input; a decoder's output is an
inherited descriptor. It prints JSON lines: `{"sandbox": ["seccomp", …]}`, `{"progress": 0.5}` and at
last `{"result": {…}}` or `{"error": {…}}`. Every probe waits for the imports of this module.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import math
import os
import resource
import struct
import sys
import time
from dataclasses import asdict
from traceback import format_exc
from typing import Any

from engine.errors import BrokenAudio, DecodingTooExpensive, DiskFull, StemifyError
from engine.media.limits import LEEWAY_S, MediaLimits
from engine.process.confinement import confine, die_with_parent

OUT_OF_MEMORY = 3
"""The status it ends with."""

_HIGHEST_OUT_RATE = 192_000
_SONG = 0  # standard input
_TINY_SONG = struct.pack(
    "<4sI4s4sIHHIIHH4sI4s", b"RIFF", 40, b"WAVE", b"fmt ", 16, 1, 2, 44100, 176_400, 4, 16, b"data", 4, bytes(4)
)


def main(arguments: list[str]) -> None:
    os.umask(0o077)
    order = json.loads(arguments[0])
    die_with_parent(parent_pid=order["parent_pid"])
    limits = MediaLimits(**order["limits"])
    if order["mode"] == "probe":
        os.nice(5)  # whoever waits for a reply to something else comes first
    try:
        answer: dict[str, Any] = {"result": _work(order, limits)}
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except StemifyError as error:
        answer = {"error": {"code": error.code, "message": error.message, "detail": error.detail}}
    except OSError as error:
        if error.errno == errno.ENOMEM:
            os._exit(OUT_OF_MEMORY)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        full = DecodingTooExpensive() if error.errno == errno.EFBIG else DiskFull()
        answer = {"error": {"code": full.code, "message": full.message}}
    except ImportError:  # a defect of ours: all imports must precede `confine`
        raise
    except Exception:  # whatever a damaged file made a library do: the file is refused, the log tells where
        answer = {"error": {"code": BrokenAudio.code, "message": BrokenAudio().message, "detail": format_exc()[-800:]}}
    _say(answer)
    sys.stdout.flush()
    os._exit(0)  # nothing to tidy up, and a broken container need not be closed


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")


def _work(order: dict[str, Any], limits: MediaLimits) -> dict[str, Any]:
    import av.logging

    from engine.media.decode import decode
    from engine.media.probe import probe

    av.logging.set_level(None)
    _import_the_rest(limits)
    _bound(order, limits)
    _say({"sandbox": confine()})
    if order["mode"] == "probe":
        return asdict(probe(_SONG, limits))
    told_at = 0.0

    def on_progress(fraction: float) -> None:
        nonlocal told_at
        now = time.monotonic()
        if now - told_at > 0.1:
            told_at = now
            _say({"progress": round(fraction, 4)})
            sys.stdout.flush()

    decoded = decode(
        _SONG,
        order["out"],
        max_duration_s=limits.max_duration_s,
        max_bytes=limits.max_bytes,
        on_progress=on_progress,
    )
    wire = asdict(decoded)
    wire["cover"] = base64.b64encode(decoded.cover).decode() if decoded.cover else None
    return wire


def _import_the_rest(limits: MediaLimits) -> None:
    """Read a tiny song, which makes PyAV import what it imports late."""
    from engine.media.probe import probe

    song = os.memfd_create("tiny song")
    os.write(song, _TINY_SONG)
    probe(song, limits)


def _bound(order: dict[str, Any], limits: MediaLimits) -> None:
    written = 0 if order["out"] is None else math.ceil((limits.max_duration_s + LEEWAY_S + 2) * _HIGHEST_OUT_RATE * 8)
    cpu_s = math.ceil(limits.timeout_s)
    for what, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, written),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower limit of the operator's stays
            resource.setrlimit(what, (most, most))
