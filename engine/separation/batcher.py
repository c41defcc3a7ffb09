"""One owner of a device: it takes the segments of all runs, batches those that fit together, and gives back stems.

Each run has a thread of its own (the caller's), which reads ahead and writes away; one thread, alive as long as there
are runs, does all the work on the device. Who is served next is decided segment by segment.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from engine.errors import Cancelled, OutOfMemory
from engine.separation.forward import Forward, forward_of
from engine.separation.loaded import LoadedModel
from engine.separation.runs import MixSource, Run, RunReport, StemSink, read_window
from engine.separation.segments import Segment

Entry = tuple[Run, Segment, Tensor]

_POLL_S = 0.05  # how soon a waiting run sees that it was cancelled


class Batcher:
    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        precision: str = "auto",
        max_batch: int | None = None,
        allow_cpu: bool = True,
    ) -> None:
        """`max_batch`: segments in a batch at most (default: 1 on a CPU, where larger ones only cost memory; 8 on a
        GPU). `allow_cpu`: a GPU whose memory does not suffice for one segment is given up for the CPU."""
        self.device = torch.device(device)
        self.precision = precision
        self._allow_cpu = allow_cpu
        self._max_batch = max_batch or (1 if self.device.type == "cpu" else 8)
        self._limits: weakref.WeakKeyDictionary[LoadedModel, int] = weakref.WeakKeyDictionary()
        self._changed = threading.Condition()
        self._runs: list[Run] = []
        self._clock = 0.0  # virtual time: the turn of the run served last
        self._thread: threading.Thread | None = None
        self._closed = False

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
        cancelled: threading.Event | None = None,
    ) -> RunReport:
        """Separate one mix; blocks until the last block is written. `on_progress(done, total)` counts segments.

        Raises `Cancelled`, `OutOfMemory`, `BadOptions`, and whatever `mix` and `sink` raise.
        """
        run = Run(
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
            self._accompany(run, mix, sink, on_progress, cancelled)
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

    # The caller's thread

    def _accompany(
        self,
        run: Run,
        mix: MixSource,
        sink: StemSink,
        on_progress: Callable[[int, int], None] | None,
        cancelled: threading.Event | None,
    ) -> None:
        unread = iter(run.plan.segments)
        ahead = 2 * self._max_batch * (1 if self._max_batch == 1 else len(run.model.members))
        upcoming = next(unread, None)
        reported = 0
        while True:
            if cancelled is not None and cancelled.is_set():
                raise Cancelled
            while upcoming is not None and len(run.waiting) < ahead and not run.blocks:
                window = read_window(mix, upcoming)
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
            for position, block in blocks:
                sink.write(position, dict(zip(run.stems, block, strict=True)))
            if done > reported:
                reported = done
                if on_progress is not None:
                    on_progress(done, run.total)
            if reported == run.total:
                return

    def _has_news(self, run: Run, reported: int, room: int) -> bool:
        return (
            bool(run.blocks)
            or run.failure is not None
            or self._closed
            or run.done > reported
            or len(run.waiting) < room
        )

    # The device's thread

    def _work(self) -> None:
        with torch.no_grad():
            while True:
                with self._changed:
                    batch = self._next_batch()
                    while not batch:
                        if self._closed or not self._runs:
                            self._thread = None
                            return
                        self._changed.wait()
                        batch = self._next_batch()
                self._serve(batch)
                del batch

    def _next_batch(self) -> list[Entry]:
        batch: list[Entry] = []
        key: tuple[int, int, int] | None = None
        limit = 1
        while len(batch) < limit:
            choices = [(run.turn, i) for i, run in enumerate(self._runs) if run.next_with(key) is not None]
            if not choices or self._closed:
                break
            run = self._runs[min(choices)[1]]
            if key is None:
                self._clock = run.turn
                limit = self._limit(run.model)
            place = run.next_with(key)
            assert place is not None
            segment, window = run.take(place)
            key = run.key(segment)
            batch.append((run, segment, window))
        return batch

    def _limit(self, model: LoadedModel) -> int:
        return self._limits.get(model, self._max_batch)

    def _serve(self, batch: list[Entry]) -> None:
        began = time.monotonic()
        try:
            outputs = self._compute(batch)
        except Exception as error:
            with self._changed:
                for run, _, _ in batch:
                    run.failure = error
                self._changed.notify_all()
            return
        blocks = [run.add(segment, stems) for (run, segment, _), stems in zip(batch, outputs, strict=True)]
        finished = [None if block is None else (block[0], block[1].cpu()) for block in blocks]
        ended = time.monotonic()
        with self._changed:
            for (run, _, _), block in zip(batch, finished, strict=True):
                run.done += 1
                run.ended_at = ended
                run.busy_s += (ended - began) / len(batch)
                if block is not None and not run.over:
                    run.blocks.append(block)
            self._changed.notify_all()

    def _compute(self, batch: list[Entry]) -> list[Tensor]:
        """The stems (sources, channels, window) of every entry, however many passes it takes."""
        model, member = batch[0][0].model, batch[0][1].member
        full = False
        try:
            windows = torch.stack([window for _, _, window in batch]).to(self.device)
            return list(self._forward(model, member)(windows))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            full = True
        assert full  # handled here, where the failed pass and its tensors are gone
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) > 1:
            half = len(batch) // 2
            self._limits[model] = half
            _note(batch, "The batch was halved for want of memory.")
            return self._compute(batch[:half]) + self._compute(batch[half:])
        if self.device.type == "cpu" or not self._allow_cpu:
            raise OutOfMemory
        _note(batch, "The GPU's memory did not suffice, so the CPU took over.")
        model.forget_placed(self.device)
        self.device = torch.device("cpu")
        self._max_batch = 1
        return self._compute(batch)

    def _forward(self, model: LoadedModel, member: int) -> Forward:
        return model.placed(member, self.device, forward_of)


def _note(batch: list[Entry], sentence: str) -> None:
    for run, _, _ in batch:
        run.note(sentence)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text or "ALLOC_FAILED" in text
