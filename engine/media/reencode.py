"""Encode stored files again as smaller mp3, in a child process at low priority.

The files are our own, so the child (`engine.media.sandbox.run_module`) opens them by path and is not confined.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import StorageFailed
from engine.media.limits import BUSY_FACTOR
from engine.media.sandbox import run_module
from engine.media.sandbox_child import answer_request

MP3_BIT_RATES = (320_000, 256_000, 224_000, 192_000, 160_000, 128_000, 112_000, 96_000)
"""Constant bit rates of an mp3 at 32 kHz or more, down to the lowest that is still pleasant."""

_HEAD_BYTES = 16 * 1024  # tags and the LAME header
_START_S, _SHARE_OF_DURATION = 30.0, 0.2  # CPU time for each file: ten times what an ordinary one takes


@dataclass(frozen=True)
class Copy:
    """One file to encode again."""

    source: str
    target: str
    bit_rate: int


def bit_rate_within(duration_s: float, limit_bytes: int) -> int | None:
    """Return the highest bit rate at which an mp3 of this length has at most `limit_bytes`, or None."""
    return next((rate for rate in MP3_BIT_RATES if rate / 8 * duration_s + _HEAD_BYTES <= limit_bytes), None)


async def reencode(copies: Sequence[Copy], *, duration_s: float) -> None:
    """Write the copies of files of at most `duration_s`; cancelling kills the child.

    Raises what `engine.media.sandbox.run_child` raises, and `StorageFailed`.
    """
    cancelled = threading.Event()
    run = partial(
        run_module,
        "engine.media.reencode",
        {"copies": [asdict(copy) for copy in copies]},
        timeout_s=BUSY_FACTOR * len(copies) * (_START_S + _SHARE_OF_DURATION * duration_s),
        cancelled=cancelled,
    )
    work = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.gather(work, return_exceptions=True)
        raise


def main(arguments: list[str]) -> None:
    answer_request(arguments, _run, StorageFailed)


def _run(request: dict[str, Any]) -> dict[str, Any]:
    os.nice(5)  # separations come first, but a user waits for the copies
    for copy in request["copies"]:
        _encode(Copy(**copy))
    return {}


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
