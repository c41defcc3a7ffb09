"""The state of one mix on its way through a model: windows that wait, stems that are summed, blocks that are final."""

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
from engine.separation.ops.device import pinned_memory
from engine.separation.plan.overlap_add import StemBuffer, to_device
from engine.separation.plan.segments import Segment, make_plan

Block = tuple[int, Tensor]  # the position of its first sample, (stems, channels, samples)


class MixSource(Protocol):
    """A mix at the model's rate, normalised as in stock Demucs."""

    samples: int

    def read(self, start: int, stop: int) -> Tensor:
        """Return (channels, stop - start) float32; 0 ≤ start < stop ≤ samples."""
        ...


class StemSink(Protocol):
    def write(self, start: int, stems: dict[str, Tensor]) -> None:
        """Take the next final block, (channels, n) float32 per stem, not yet denormalised.

        Each block starts where the last one ended.
        """
        ...


@dataclass(frozen=True)
class RunReport:
    """What a run used and what the trust card says about it."""

    segments: int
    separating_s: float  # wall time from the first to the last segment
    busy_s: float  # the device's time for this run
    notes: tuple[str, ...]  # sentences for the trust card
    segment_s: float
    agreement_db: Mapping[str, float | None]  # by stem, as in `StemBuffer.agreement_db`
    devices: tuple[str, ...]  # in order of use; two where the CPU stood in for a GPU


class SongRun:
    """Shared by the caller's thread and the device's.

    The batcher's lock guards it, except `buffer`, which only the device's thread uses.
    """

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
        """Plan the run. Raises `BadOptions`."""
        self.model = model
        self.stems = tuple(stems)
        self.notes: list[str] = []
        self.devices: list[str] = []
        self.rows = model.rows(stems)
        if segment_s is not None and segment_s > model.max_segment_s:
            self.note(f"The segment was shortened to {model.max_segment_s:g} s, the longest that {model.name} takes.")
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
        self.blocks: deque[Block] = deque()  # final, not yet written
        self.buffer: StemBuffer | None = None
        self._final: Block | None = None  # taken out of the buffer, not yet on the host
        self._row_index: Tensor | None = None
        self.is_reading = True  # its thread reads the mix or waits; False in the sink and in callbacks
        self.taken = 0  # segments given to the device
        self.done = 0
        self.turn = 0.0  # when it is served next, in the batcher's virtual time
        self.failure: BaseException | None = None
        self.is_over = False
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
        """Return a key; segments with the same one can share a batch."""
        return id(self.model), segment.member, segment.window_samples

    def next_with(self, key: tuple[int, int, int] | None) -> int | None:
        """Return the index in `waiting` of the first segment that can share a batch with `key` (None: any).

        Segments of one stream stay in order.
        """
        skipped = set()
        for index, (segment, _) in enumerate(self.waiting):
            if (key is None or self.key(segment) == key) and segment.stream not in skipped:
                return index
            skipped.add(segment.stream)
        return None

    def take_window(self, index: int) -> tuple[Segment, Tensor]:
        """Remove a window from `waiting` and postpone the run's next turn.

        The fewer segments are left, the sooner that turn: a short song does not wait for a long one, and the long one
        still gets its turns. The more a window costs, the later: a slow model does not hold up songs of a fast one.
        """
        entry = self.waiting[index]
        del self.waiting[index]
        self.turn += self.model.window_cost * (self.total - self.taken) ** 0.5
        self.taken += 1
        if self.started_at is None:
            self.started_at = time.monotonic()
        return entry

    def add(self, segment: Segment, stems: Tensor) -> None:
        """Add the (sources, channels, window) of one segment; the device's thread calls it.

        May be called again with the same segment after it ran out of memory.
        """
        if self.buffer is None:
            self.buffer = StemBuffer(
                self.plan, self.shares, channels=stems.shape[1], samples=self.samples, device=stems.device
            )
        elif self.buffer.device != stems.device:
            self.buffer.move(stems.device)
        if self.rows != tuple(range(stems.shape[0])):
            stems = stems.index_select(0, self._rows_on(stems.device))
        self.buffer.add(segment, stems[..., segment.trim : segment.trim + segment.samples])

    def take_block(self) -> Block | None:
        """Return what became final, on its way to the host; the device's thread calls it.

        May be called again after it ran out of memory.
        """
        assert self.buffer is not None
        if self._final is None:
            self._final = self.buffer.take()
        if self._final is None:
            return None
        position, block = self._final
        on_host = _to_host(block)
        self._final = None
        return position, on_host

    def _rows_on(self, device: torch.device) -> Tensor:
        if self._row_index is None or self._row_index.device != device:
            self._row_index = to_device(torch.tensor(self.rows), device)
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
    """Return (channels, segment.window_samples), the input of the network; zero outside of the mix."""
    start, stop = segment.window_start, segment.window_start + segment.window_samples
    inner_start, inner_stop = max(0, start), min(mix.samples, stop)
    if inner_stop <= inner_start:  # a shift can put a whole segment before the mix
        inner = mix.read(0, 1)[:, :0]
        return torch.nn.functional.pad(inner, (0, segment.window_samples))
    inner = mix.read(inner_start, inner_stop)
    return torch.nn.functional.pad(inner, (inner_start - start, stop - inner_stop))


def _to_host(block: Tensor) -> Tensor:
    """Copy to the CPU; on CUDA without waiting for the device, unless there is no pinned memory left."""
    if block.device.type != "cuda":
        return block.cpu()
    on_host = pinned_memory(*block.shape)
    return on_host.copy_(block, non_blocking=on_host.is_pinned())
