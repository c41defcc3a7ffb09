"""Encode stored files again as smaller mp3, in a child process at low priority.

The files are our own, so the child is not sandboxed. It prints nothing; its exit status tells whether it succeeded.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import StorageFailed
from engine.process.confinement import die_with_parent
from engine.process.environment import computing_environment

MP3_BIT_RATES = (320_000, 256_000, 224_000, 192_000, 160_000, 128_000, 112_000, 96_000)
"""Constant bit rates of an mp3 at 32 kHz or more, down to the lowest that is still pleasant."""

_HEAD_BYTES = 16 * 1024  # tags and the LAME header
_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from engine.media.reencode import main; main(sys.argv[2:])"


@dataclass(frozen=True)
class Copy:
    """One file to encode again."""

    source: str
    target: str
    bit_rate: int


def bit_rate_within(duration_s: float, limit_bytes: int) -> int | None:
    """Return the highest bit rate at which an mp3 of this length has at most `limit_bytes`, or None."""
    return next((rate for rate in MP3_BIT_RATES if rate / 8 * duration_s + _HEAD_BYTES <= limit_bytes), None)


async def reencode(copies: Sequence[Copy]) -> None:
    """Write the copies; cancelling kills the child. Raises `StorageFailed`."""
    request = json.dumps({"parent_pid": os.getpid(), "copies": [asdict(copy) for copy in copies]})
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", _PROGRAM, str(_ROOT), request,
        stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, env=computing_environment(), start_new_session=True,
    )  # fmt: skip
    try:
        _, errors = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        raise StorageFailed(
            detail=f"re-encoding ended with {child.returncode}: {errors[-500:].decode(errors='replace')}"
        )


def main(arguments: list[str]) -> None:
    os.umask(0o077)
    os.nice(5)  # separations come first, but a user waits for the copies
    request = json.loads(arguments[0])
    die_with_parent(parent_pid=request["parent_pid"])
    for copy in request["copies"]:
        _encode(Copy(**copy))


def _encode(copy: Copy) -> None:
    import av

    from engine.media.decoder import read_audio
    from engine.media.encode import StemEncoder
    from engine.media.tags import read_tags

    source = Path(copy.source)
    with av.open(source) as container:
        stream = container.streams.audio[0]
        sample_rate, tags = stream.sample_rate, read_tags(container, stream)
    with StemEncoder(
        Path(copy.target), format="mp3", sample_rate=sample_rate, bit_rate=copy.bit_rate, tags=tags
    ) as encoder:
        read_audio(source, max_bytes=sys.maxsize, max_duration_s=float("inf"), sink=encoder.write)
