"""Render a mix or a version: decode stems, change key and tempo, sum, encode. It runs in the child process.

The sum must not clip, and one gain for all samples is known only at the end. The files are encoded while the stems are
decoded; if a peak exceeds full scale, they are encoded again from the float samples in a spool file. Memory does not
grow with the length of the song.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from engine.media.encode import MP3_BIT_RATE, StemEncoder
from engine.media.samples import Samples
from engine.mixes.protocol import Rendered, RenderRequest
from engine.mixes.reader import StemsReader

if TYPE_CHECKING:
    from engine.mixes.stretch_processes import StretchProcesses

_MAX_PEAK = 0.9999
_BLOCK_SAMPLES = 1 << 16


def start_threads(threads: ThreadPoolExecutor, count: int) -> None:
    """Start the threads of a pool, which would start them only when they are needed."""
    started = Barrier(count)
    list(threads.map(lambda _: started.wait(), range(count)))


def render(request: RenderRequest, threads: ThreadPoolExecutor, processes: StretchProcesses | None = None) -> Rendered:
    """Write the outputs, each encoded by one of the `threads`, with one more for each of the `processes`.

    Raises `BrokenAudio`, `DiskFull` and `StorageFailed`.
    """
    with StemsReader(request.stems) as reader, os.fdopen(request.spool, "w+b") as spool:
        tags = [(stem.tags, stem.cover()) for stem in reader.stems]
        samples, peak = 0, 0.0
        with _Outputs(request, threads, reader.sample_rate, tags) as outputs:
            for block in _changed_blocks(request, reader, threads, processes):
                out = block if request.keeps_stems else _sum(block, request.gains, request.pans)
                out = out * np.float32(request.level)
                samples += out.shape[1]
                peak = max(peak, float(np.abs(out).max(initial=0.0)))
                outputs.write(out)
                spool.write(np.ascontiguousarray(out.T).data)
            if samples and peak <= 1:
                outputs.finish()
        gain = _MAX_PEAK / peak if peak > 1 else 1.0
        if gain != 1.0:
            with _Outputs(request, threads, reader.sample_rate, tags) as outputs:
                for block in _read_blocks(spool, 2 * len(request.outputs)):
                    outputs.write(block * np.float32(gain))
                outputs.finish()
        return Rendered(gain, samples, reader.sample_rate)


class _Outputs:
    """Encode the outputs, each in a thread. Unless `finish` was called, the files are empty on exit."""

    def __init__(self, request: RenderRequest, threads: ThreadPoolExecutor, sample_rate: int, tags: list[Any]) -> None:
        self._request = request
        self._threads = threads
        self._writing: list[Future[None]] = []
        self._is_finished = False
        with ExitStack() as opened:
            self._encoders = [
                opened.enter_context(
                    StemEncoder(
                        Path(title),
                        descriptor=os.dup(output),
                        format=request.format,
                        bit_rate=request.bit_rate or MP3_BIT_RATE,
                        sample_rate=sample_rate,
                        tags={**tags[stem][0], "title": title, "comment": comment},
                        cover=tags[stem][1] if request.bit_rate is None else None,  # a preview is small
                    )
                )
                for stem, (output, title, comment) in enumerate(
                    zip(request.outputs, request.titles, request.comments, strict=True)
                )
            ]
            opened.pop_all()

    def __enter__(self) -> _Outputs:
        return self

    def __exit__(self, *_: object) -> None:
        wait(self._writing)
        if not self._is_finished:
            for encoder, output in zip(self._encoders, self._request.outputs, strict=True):
                encoder.abort()
                os.truncate(output, 0)
                os.lseek(output, 0, os.SEEK_SET)

    def write(self, block: Samples) -> None:
        """Queue a block, (2 channels for each output, samples), after waiting for the previous one."""
        self._finish_block()
        self._writing = [
            self._threads.submit(encoder.write, np.ascontiguousarray(block[2 * index : 2 * index + 2]))
            for index, encoder in enumerate(self._encoders)
        ]

    def finish(self) -> None:
        """Complete the files."""
        self._finish_block()
        for encoder in self._encoders:
            encoder.close()
        self._is_finished = True

    def _finish_block(self) -> None:
        for step in self._writing:
            step.result()


def _read_blocks(spool: BinaryIO, channels: int) -> Iterator[Samples]:
    spool.seek(0)
    while data := spool.read(_BLOCK_SAMPLES * 4 * channels):
        yield np.frombuffer(data, np.float32).reshape(-1, channels).T


def _changed_blocks(
    request: RenderRequest, reader: StemsReader, threads: ThreadPoolExecutor, processes: StretchProcesses | None
) -> Iterator[Samples]:
    rate = reader.sample_rate
    stop = None if request.end_s is None else round(request.end_s * rate)
    blocks = reader.blocks(round(request.start_s * rate), stop)
    if not request.is_stretched:
        return blocks
    from engine.mixes.stretch import Stretcher  # its library is not available everywhere

    stretcher = Stretcher(
        2 * len(reader.stems),
        rate,
        key=request.key,
        tempo=request.tempo,
        stretch_parts=partial(processes.stretch_parts, threads=threads) if processes else None,
    )
    return stretcher.stretch(blocks)


def _sum(block: Samples, gains: list[float], pans: list[float]) -> Samples:
    total = np.zeros((2, block.shape[1]), np.float32)
    for stem, (gain, pan) in enumerate(zip(gains, pans, strict=True)):
        if gain:
            total += _panned(block[2 * stem : 2 * stem + 2], pan) * np.float32(gain)
    return total


def _panned(stem: Samples, pan: float) -> Samples:
    """Return a stereo stem with equal power at every pan, as the player's StereoPannerNode does it."""
    if pan == 0:
        return stem
    near, far = (0, 1) if pan < 0 else (1, 0)
    angle = (1 - abs(pan)) * math.pi / 2
    out = np.empty_like(stem)
    out[near] = stem[near] + stem[far] * np.float32(math.cos(angle))
    out[far] = stem[far] * np.float32(math.sin(angle))
    return out
