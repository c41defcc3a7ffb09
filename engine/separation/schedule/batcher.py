"""One owner of a device: it takes the segments of all runs, batches those that fit together, and gives back stems.

Each run has a thread of its own (the caller's), which reads ahead and writes away; one thread, which ends when there
are no runs (on a GPU with `close`: cuDNN keeps its plans by thread), does all the work on the device. Who is served
next is decided segment by segment.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from engine.errors import Cancelled
from engine.separation.cuda.graphs import NO_EFFORT, Effort
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.native.library import NativeLibrary
from engine.separation.plan.segments import Segment
from engine.separation.schedule.memory_backoff import Executor
from engine.separation.schedule.song_run import MixSource, RunReport, SongRun, StemSink, read_window

Entry = tuple[SongRun, Segment, Tensor]

_AHEAD_BYTES = 1 << 28
_POLL_S = 0.05  # how soon a waiting run sees that it was cancelled
_PAIR_WAIT_S = 0.1  # the longest that a run's last window waits for a window of another run


class Batcher:
    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        precision: str = "auto",
        max_batch: int | None = None,
        allow_cpu: bool = True,
        kernels: NativeLibrary | None = None,
        effort: Effort = NO_EFFORT,
    ) -> None:
        """`precision`: "fp32", "tf32" or "fp16" of a GPU; "auto" is fp16. `max_batch`: segments in a batch at most
        (default: on a CPU one, or two side by side that share its threads; on a GPU what its memory takes, up to 16).
        `allow_cpu`: where a GPU's memory does not suffice for one segment, the CPU stands in for a while. `kernels`:
        compiled ones for the CPU. `effort`: at a GPU's first batches."""
        self._passes = Executor(
            torch.device(device),
            precision=precision,
            max_batch=max_batch,
            allow_cpu=allow_cpu,
            kernels=kernels,
            effort=effort,
        )
        self._kernels = kernels
        self._depth = 1 if self.device.type == "cuda" else 0  # batches left to the device while the next is prepared
        self._changed = threading.Condition()
        self._runs: list[SongRun] = []
        self._clock = 0.0  # virtual time: the turn of the run served last
        self._pair_wait_ends_at: float | None = None  # None: no window waits for one of another run
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def device(self) -> torch.device:
        return self._passes.device

    def run(
        self,
        model: LoadedModel,
        mix: MixSource,
        sink: StemSink,
        *,
        stems: Sequence[str],
        shifts: int = 1,
        overlap: float = 0.25,
        segment_s: float | None = None,
        seed: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        on_cpu: Callable[[], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> RunReport:
        """Separate one mix; blocks until the last block is written. `on_progress(done, total)` counts segments;
        `on_cpu()` is called once, before the progress, when the CPU had to stand in for a GPU.

        Raises `Cancelled`, `OutOfMemory`, `BadOptions`, and whatever `mix` and `sink` raise.
        """
        run = SongRun(
            model,
            mix.samples,
            stems=stems,
            shifts=shifts,
            overlap=overlap,
            segment_s=segment_s,
            seed=int.from_bytes(os.urandom(8)) if seed is None else seed,
        )
        with self._changed:
            if self._closed:
                raise Cancelled
            self._runs.append(run)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"batcher {self.device}", daemon=True)
                self._thread.start()
        try:
            self._accompany(run, mix, sink, on_progress, on_cpu, cancelled)
        finally:
            with self._changed:
                run.over = True
                run.waiting.clear()
                self._runs.remove(run)
                self._changed.notify_all()
        return run.report()

    def close(self) -> None:
        """End all runs (they raise `Cancelled`) and the device's thread."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()
        if self._kernels is not None:
            self._kernels.close()

    # The caller's thread

    def _accompany(
        self,
        run: SongRun,
        mix: MixSource,
        sink: StemSink,
        on_progress: Callable[[int, int], None] | None,
        on_cpu: Callable[[], None] | None,
        cancelled: threading.Event | None,
    ) -> None:
        unread = iter(run.plan.segments)
        window_bytes = max(segment.window_samples for segment in run.plan.segments) * run.model.audio_channels * 4
        upcoming = next(unread, None)
        reported = 0
        while True:
            if cancelled is not None and cancelled.is_set():
                raise Cancelled
            ahead = self._windows_ahead(run, window_bytes)
            while upcoming is not None and len(run.waiting) < ahead and not run.blocks:
                window = read_window(mix, upcoming)
                if self.device.type == "cuda":
                    window = window.pin_memory()
                with self._changed:
                    if not run.waiting:
                        run.turn = max(run.turn, self._clock)
                    run.waiting.append((upcoming, window))
                    self._changed.notify_all()
                upcoming = next(unread, None)
            with self._changed:
                room = ahead if upcoming is not None else 0
                self._changed.wait_for(partial(self._has_news, run, reported, room), timeout=_POLL_S)
                if run.failure is not None:
                    raise run.failure
                if self._closed:
                    raise Cancelled
                blocks = list(run.blocks)
                run.blocks.clear()
                done = run.done
                run.is_reading = not blocks and done == reported
                if not run.is_reading:
                    self._changed.notify_all()
                stood_in = any(device != str(self._passes.home) for device in run.devices)
            if stood_in and on_cpu is not None:
                on_cpu()
                on_cpu = None
            for position, block in blocks:
                sink.write(position, dict(zip(run.stems, block, strict=True)))
            if done > reported:
                reported = done
                if on_progress is not None:
                    on_progress(done, run.total)
            if reported == run.total:
                return
            with self._changed:
                run.is_reading = True

    def _windows_ahead(self, run: SongRun, window_bytes: int) -> int:
        """How many windows may be read and not yet computed: two batches of every member, if they are not too long.
        It changes where the CPU stands in for a while."""
        if self._passes.max_batch == 1:
            return 2
        return min(2 * self._passes.max_batch * len(run.model.members), max(2, _AHEAD_BYTES // window_bytes))

    def _has_news(self, run: SongRun, reported: int, room: int) -> bool:
        return (
            bool(run.blocks)
            or run.failure is not None
            or self._closed
            or run.done > reported
            or len(run.waiting) < room
        )

    # The device's thread

    def _work(self) -> None:
        launched: deque[_Launched] = deque()
        last_ended = 0.0
        home = self._passes.home
        on_device = torch.cuda.device(home) if home.type == "cuda" else contextlib.nullcontext()
        with torch.no_grad(), on_device:
            while True:
                with self._changed:
                    batch = self._next_batch()
                    while not batch and not launched:
                        if self._closed or not (self._runs or home.type == "cuda"):
                            self._passes.rest()
                            self._thread = None
                            return
                        self._changed.wait(None if self._pair_wait_ends_at is None else _PAIR_WAIT_S)
                        batch = self._next_batch()
                if batch:
                    launched.append(self._launch(batch))
                while launched and (not batch or len(launched) > self._depth):
                    last_ended = self._finish(launched.popleft(), last_ended)

    def _next_batch(self) -> list[Entry]:
        batch: list[Entry] = []
        key: tuple[int, int, int] | None = None
        limit = 0 if self._passes.wants_pairs and self._waits_for_a_pair() else 1
        while len(batch) < limit:
            choices = [(run.turn, i) for i, run in enumerate(self._runs) if run.next_with(key) is not None]
            if not choices or self._closed:
                break
            run = self._runs[min(choices)[1]]
            if key is None:
                self._clock = run.turn
                limit = self._passes.limit(run.model)
            place = run.next_with(key)
            assert place is not None
            segment, window = run.take(place)
            key = run.key(segment)
            batch.append((run, segment, window))
        return batch

    def _waits_for_a_pair(self) -> bool:
        """Whether the only window that was read should wait for a second one.

        It waits for the next window of its own run. It waits for another run only while that run reads its mix, and
        at most `_PAIR_WAIT_S`, so that a slow mix or sink does not delay its neighbours.
        """
        owners = [run for run in self._runs for _ in run.waiting]
        if len(owners) == 1:
            (owner,) = owners
            if owner.taken + 1 < owner.total:
                return True
            if any(run.is_reading and run.taken < run.total for run in self._runs if run is not owner):
                now = time.monotonic()
                if self._pair_wait_ends_at is None:
                    self._pair_wait_ends_at = now + _PAIR_WAIT_S
                if now < self._pair_wait_ends_at:
                    return True
        self._pair_wait_ends_at = None
        return False

    def _launch(self, batch: list[Entry]) -> _Launched:
        """Start the work on a batch; on a GPU it may go on when this returns."""
        began = time.monotonic()
        try:
            outputs = self._passes.stems(
                batch[0][0].model, batch[0][1].member, [window for _, _, window in batch], partial(self._note, batch)
            )
            blocks = [run.add(segment, stems) for (run, segment, _), stems in zip(batch, outputs, strict=True)]
            on_host = [None if block is None else (block[0], _to_host(block[1])) for block in blocks]
            arrived = None
            if self.device.type == "cuda":
                arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
                arrived.record()
            return _Launched(batch, began, on_host, arrived, str(self.device))
        except Exception as error:
            return _Launched(batch, began, [None] * len(batch), None, str(self.device), error)

    def _note(self, batch: list[Entry], sentence: str) -> None:
        with self._changed:
            for run, _, _ in batch:
                run.note(sentence)

    def _finish(self, launched: _Launched, last_ended: float) -> float:
        """Wait for a batch and hand out what it made final; when that was."""
        error = launched.error
        try:
            if launched.arrived is not None:
                launched.arrived.synchronize()
        except RuntimeError as failed:
            error = failed
        ended = time.monotonic()
        busy_s = ended - max(launched.began, last_ended)
        with self._changed:
            for (run, _, _), block in zip(launched.batch, launched.blocks, strict=True):
                run.done += 1
                run.ended_at = ended
                if launched.device not in run.devices:
                    run.devices.append(launched.device)
                run.busy_s += busy_s / len(launched.batch)
                run.failure = error or run.failure
                if block is not None and not run.over:
                    run.blocks.append(block)
            self._changed.notify_all()
        return ended


@dataclass(frozen=True)
class _Launched:
    """A batch whose work has been started. `arrived`: when it has ended; None: it has."""

    batch: list[Entry]
    began: float
    blocks: list[tuple[int, Tensor] | None]
    arrived: torch.cuda.Event | None
    device: str
    error: Exception | None = None


def _to_host(block: Tensor) -> Tensor:
    if block.device.type == "cpu":
        return block
    return torch.empty(block.shape, pin_memory=True).copy_(block, non_blocking=True)
