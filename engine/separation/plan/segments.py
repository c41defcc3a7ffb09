"""Plan which windows of the mix go through which member of a bag, in which order.

The segments are those of stock Demucs (`demucs.apply.apply_model` with `split=True`). Stock loops over members, shifts
and segments, and finishes the song before the next shift; here the segments are merged in order of time, so the stems
become final from the start and memory depends on the segment length, not on the song's.

Positions are samples of the mix. A shift moves a stream of segments to the left by up to half a second: it starts at a
negative position, and the mix is zero there.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from engine.errors import BadOptions


@dataclass(frozen=True, slots=True)
class MemberShape:
    """The segment lengths of one member of a bag."""

    segment_samples: int  # length of a full segment
    window_samples: Callable[[int], int]  # length of a segment → length of the network's input
    draws: int | None = None  # stock calls `random.randrange(draws)` in every forward pass; None: it does not


@dataclass(frozen=True, slots=True)
class Stream:
    """The segments of one member at one shift: from `start` (0 or less) to the end of the mix, `stride` apart."""

    member: int
    start: int
    stop: int
    segment_samples: int
    stride: int

    @property
    def count(self) -> int:
        return -(-(self.stop - self.start) // self.stride)

    @property
    def settled(self) -> int:
        """Index of the first segment with all neighbours before it; later ones have the same blend window."""
        return -(-self.segment_samples // self.stride) - 1


@dataclass(frozen=True, slots=True)
class Segment:
    """One forward pass: `samples` of the mix from `start`, inside a window that may be wider."""

    stream: int
    index: int  # within its stream
    member: int
    start: int
    samples: int
    window_samples: int

    @property
    def trim(self) -> int:
        """Samples of the window before the segment."""
        return (self.window_samples - self.samples) // 2

    @property
    def window_start(self) -> int:
        return self.start - self.trim


@dataclass(frozen=True, slots=True)
class Plan:
    streams: tuple[Stream, ...]
    segments: tuple[Segment, ...]  # in order of time


def segment_samples(sample_rate: int, segment_s: float) -> int:
    """Return the length of a segment in samples, rounded like stock. Raises `BadOptions`."""
    samples = int(sample_rate * segment_s)
    if samples < 1:
        raise BadOptions("That segment duration is too short.")
    return samples


def make_plan(
    samples: int,
    members: Sequence[MemberShape],
    wanted: Sequence[int],
    *,
    sample_rate: int,
    shifts: int,
    overlap: float,
    rng: random.Random,
) -> Plan:
    """Plan the separation of a mix of `samples`.

    Only the members in `wanted` get segments, but `rng` is drawn from for all of them, exactly as stock draws from the
    global one: per member and shift `randint(0, half a second)`, and then once per forward pass.
    Raises `BadOptions`.
    """
    if samples < 1:
        raise BadOptions("The mix is empty.")
    if not 0 <= overlap < 1:
        raise BadOptions("The overlap must be at least 0 and less than 1.")
    if shifts < 0:
        raise BadOptions("The number of shifts cannot be negative.")
    max_shift = int(0.5 * sample_rate)
    streams: list[Stream] = []
    for number, member in enumerate(members):
        stride = int((1 - overlap) * member.segment_samples)
        if stride < 1:
            raise BadOptions("The overlap is too long for the segment duration.")
        for _ in range(max(1, shifts)):
            start = rng.randint(0, max_shift) - max_shift if shifts else 0
            stream = Stream(number, start, samples, member.segment_samples, stride)
            if member.draws is not None:
                for _ in range(stream.count):
                    rng.randrange(member.draws)
            if number in wanted:
                streams.append(stream)
    ordered = heapq.merge(
        *(_segments(i, stream, members[stream.member]) for i, stream in enumerate(streams)),
        key=lambda segment: (segment.start, segment.stream),
    )
    return Plan(tuple(streams), tuple(ordered))


def _segments(number: int, stream: Stream, member: MemberShape) -> list[Segment]:
    found = []
    for index, start in zip(count(), range(stream.start, stream.stop, stream.stride)):
        samples = min(stream.segment_samples, stream.stop - start)
        found.append(Segment(number, index, stream.member, start, samples, member.window_samples(samples)))
    return found


@lru_cache(maxsize=64)
def _settled_window(samples: int, stride: int, index: int) -> NDArray[np.float32]:
    triangle = np.concatenate([np.arange(1, samples // 2 + 1), np.arange(samples - samples // 2, 0, -1)])
    weight = (triangle / triangle.max()).astype(np.float32).astype(np.float64)
    total = np.zeros(samples)
    for other in range(index + 1):  # the earlier segments; the loop below adds the later ones
        behind = (index - other) * stride
        if behind < samples:
            total[: samples - behind] += weight[behind:]
    for other in range(1, -(-samples // stride)):
        total[other * stride :] += weight[: samples - other * stride]
    window: NDArray[np.float32] = (weight / total).astype(np.float32)
    window.setflags(write=False)
    return window


def blend_window(stream: Stream, index: int) -> NDArray[np.float32]:
    """Return the weight of each sample of a full segment: stock's triangle over the sum of all overlapping triangles.

    The weights at one position add up to 1.
    """
    return _settled_window(stream.segment_samples, stream.stride, min(index, stream.settled))
