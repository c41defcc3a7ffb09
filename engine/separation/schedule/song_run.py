"""One run: a mix on its way through a model. The thread that asked for it reads the mix ahead and writes the stems
away, while the device's own thread computes."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.separation.models.loaded_model import LoadedModel
from engine.separation.plan.overlap_add import StemBuffer
from engine.separation.plan.segments import Segment, make_plan


class MixSource(Protocol):
    """A mix at the model's rate, normalised as stock does it."""

    samples: int

    def read(self, start: int, stop: int) -> Tensor:
        """(channels, stop - start) float32; 0 ≤ start < stop ≤ samples."""
        ...


class StemSink(Protocol):
    def write(self, start: int, stems: dict[str, Tensor]) -> None:
        """Final blocks (channels, n) float32, each starting where the last one ended; not yet denormalised."""
        ...


@dataclass(frozen=True)
class RunReport:
    """`separating_s`: wall seconds from the first to the last segment. `busy_s`: seconds that the device worked on
    it. `notes`: sentences for the trust card. `agreement_db`: as `StemBuffer.agreement_db`, by stem. `devices`: what
    computed it, usually one; the CPU comes beside a GPU that had no memory left."""

    segments: int
    separating_s: float
    busy_s: float
    notes: tuple[str, ...]
    segment_s: float
    agreement_db: Mapping[str, float | None]
    devices: tuple[str, ...]


class SongRun:
    """The state that is shared between the asking thread and the device's; the batcher's lock guards it, except
    `buffer`, which is the device thread's alone."""

    def __init__(
        self,
        model: LoadedModel,
        samples: int,
        *,
        stems: Sequence[str],
        shifts: int,
        overlap: float,
        segment_s: float | None,
        seed: int,
    ) -> None:
        """Raises `BadOptions`."""
        self.model = model
        self.stems = tuple(stems)
        self.notes: list[str] = []
        self.devices: list[str] = []
        self.rows = model.rows(stems)
        if segment_s is not None and segment_s > model.max_segment_s:
            self.note(f"The segment was shortened to {model.max_segment_s:g} s, the longest that {model.name} can see.")
            segment_s = None
        self.segment_s = model.segment_s if segment_s is None else segment_s
        self.plan = make_plan(
            samples,
            model.shapes(segment_s),
            model.wanted_members(self.rows),
            sample_rate=model.sample_rate,
            shifts=shifts,
            overlap=overlap,
            rng=random.Random(seed),  # noqa: S311
        )
        self.shares = [
            [model.share(stream.member, row) / max(1, shifts) for row in self.rows] for stream in self.plan.streams
        ]
        self.samples = samples
        self.waiting: deque[tuple[Segment, Tensor]] = deque()  # read, not yet computed
        self.blocks: deque[tuple[int, Tensor]] = deque()  # final, not yet written
        self.buffer: StemBuffer | None = None
        self._row_index: Tensor | None = None
        self.is_reading = True  # its thread reads the mix, or waits; it is not in the sink or in a callback
        self.taken = 0  # segments given to the device
        self.done = 0
        self.turn = 0.0  # when it is served next, in the batcher's virtual time
        self.failure: BaseException | None = None
        self.over = False
        self.started_at: float | None = None
        self.ended_at = 0.0
        self.busy_s = 0.0

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    @property
    def total(self) -> int:
        return len(self.plan.segments)

    def key(self, segment: Segment) -> tuple[int, int, int]:
        """Segments with the same key can share a batch."""
        return id(self.model), segment.member, segment.window_samples

    def next_with(self, key: tuple[int, int, int] | None) -> int | None:
        """The place in `waiting` of the first segment that may share a batch with `key` (None: any). Segments of one
        stream stay in order."""
        skipped = set()
        for place, (segment, _) in enumerate(self.waiting):
            if (key is None or self.key(segment) == key) and segment.stream not in skipped:
                return place
            skipped.add(segment.stream)
        return None

    def take(self, place: int) -> tuple[Segment, Tensor]:
        """Remove one from `waiting`, and pay for it: the fewer segments are left, the cheaper, so that a short song
        does not wait behind a long one, and yet the long one is never left standing."""
        entry = self.waiting[place]
        del self.waiting[place]
        self.turn += (self.total - self.taken) ** 0.5
        self.taken += 1
        if self.started_at is None:
            self.started_at = time.monotonic()
        return entry

    def add(self, segment: Segment, stems: Tensor) -> tuple[int, Tensor] | None:
        """Device thread: (sources, channels, window) of one segment in; what became final out."""
        if self.buffer is None or self.buffer.device != stems.device:
            if self.buffer is None:
                self.buffer = StemBuffer(
                    self.plan, self.shares, channels=stems.shape[1], samples=self.samples, device=stems.device
                )
            else:
                self.buffer.move(stems.device)
        if self.rows != tuple(range(stems.shape[0])):
            stems = stems.index_select(0, self._rows_on(stems.device))
        self.buffer.add(segment, stems[..., segment.trim : segment.trim + segment.samples])
        return self.buffer.take()

    def _rows_on(self, device: torch.device) -> Tensor:
        if self._row_index is None or self._row_index.device != device:
            self._row_index = torch.tensor(self.rows, device=device)
        return self._row_index

    def report(self) -> RunReport:
        wall_s = self.ended_at - self.started_at if self.started_at is not None else 0.0
        agreement = self.buffer.agreement_db() if self.buffer is not None else [None] * len(self.stems)
        return RunReport(
            segments=self.done,
            separating_s=wall_s,
            busy_s=self.busy_s,
            notes=tuple(self.notes),
            segment_s=self.segment_s,
            agreement_db=dict(zip(self.stems, agreement, strict=True)),
            devices=tuple(self.devices),
        )


def read_window(mix: MixSource, segment: Segment) -> Tensor:
    """(channels, segment.window_samples): what the network sees, zero outside of the mix."""
    start, stop = segment.window_start, segment.window_start + segment.window_samples
    inner_start, inner_stop = max(0, start), min(mix.samples, stop)
    if inner_stop <= inner_start:  # a shift may put a segment before the mix begins
        inner = mix.read(0, 1)[:, :0]
        return torch.nn.functional.pad(inner, (0, segment.window_samples))
    inner = mix.read(inner_start, inner_stop)
    return torch.nn.functional.pad(inner, (inner_start - start, stop - inner_stop))
