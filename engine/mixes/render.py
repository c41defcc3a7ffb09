"""Render a mix or a version: decode stems, change key and tempo, sum, encode. It runs in the child process.

The float samples are first written to a spool file, because one gain for all of them is known only at the end: the sum
must not clip. Memory does not grow with the length of the song.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.media.encode import StemEncoder
from engine.media.samples import Samples
from engine.mixes.reader import StemsReader
from engine.mixes.render_request import Rendered, RenderRequest

_MAX_PEAK = 0.9999
_BLOCK_SAMPLES = 1 << 16


def render(request: RenderRequest) -> Rendered:
    """Write the outputs. Raises `BrokenAudio`, `DiskFull` and `StorageFailed`."""
    with StemsReader(request.stems) as reader, os.fdopen(request.spool, "w+b") as spool:
        tags = [(stem.tags, stem.cover()) for stem in reader.stems]
        channels, peak = 0, 0.0
        for block in _changed_blocks(request, reader):
            out = block if request.keeps_stems else _sum(block, request.gains)
            out = out * np.float32(request.level)
            channels = out.shape[0]
            peak = max(peak, float(np.abs(out).max(initial=0.0)))
            spool.write(np.ascontiguousarray(out.T).data)
        gain = _MAX_PEAK / peak if peak > 1 else 1.0
        samples = _encode(request, reader.sample_rate, tags, spool, channels, gain) if channels else 0
        return Rendered(gain, samples, reader.sample_rate)


def _changed_blocks(request: RenderRequest, reader: StemsReader) -> Iterator[Samples]:
    rate = reader.sample_rate
    stop = None if request.end_s is None else round(request.end_s * rate)
    blocks = reader.blocks(round(request.start_s * rate), stop)
    if request.key == 0 and request.tempo == 1:
        return blocks
    from engine.mixes.stretch import Stretcher  # its library is not available everywhere

    stretcher = Stretcher(2 * len(reader.stems), rate, key=request.key, tempo=request.tempo)
    return stretcher.stretch(blocks)


def _sum(block: Samples, gains: list[float]) -> Samples:
    total = np.zeros((2, block.shape[1]), np.float32)
    for stem, gain in enumerate(gains):
        if gain:
            total += block[2 * stem : 2 * stem + 2] * np.float32(gain)
    return total


def _encode(request: RenderRequest, sample_rate: int, tags: list[Any], spool: Any, channels: int, gain: float) -> int:
    encoders = [
        StemEncoder(
            Path(title),
            descriptor=output,
            format=request.format,
            sample_rate=sample_rate,
            tags={**tags[stem][0], "title": title, "comment": comment},
            cover=tags[stem][1],
        )
        for stem, (output, title, comment) in enumerate(
            zip(request.outputs, request.titles, request.comments, strict=True)
        )
    ]
    spool.seek(0)
    samples = 0
    while data := spool.read(_BLOCK_SAMPLES * 4 * channels):
        block = np.frombuffer(data, np.float32).reshape(-1, channels).T * np.float32(gain)
        samples += block.shape[1]
        for index, encoder in enumerate(encoders):
            encoder.write(np.ascontiguousarray(block[2 * index : 2 * index + 2]))
    for encoder in encoders:
        encoder.close()
    return samples
