"""One thread per device that computes the segments of all runs, in batches of segments that fit together.

The thread of each caller reads its mix ahead and writes its stems. The device's thread ends when there are no runs; on
a GPU it ends with `close`, because cuDNN keeps its plans per thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from engine.errors import Cancelled, OutOfMemory
from engine.separation.cuda.graphs import NO_TUNING, Tuning
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.native.library import NativeLibrary
from engine.separation.ops.device import use_threads
from engine.separation.schedule.memory_backoff import Executor
from engine.separation.schedule.run_queue import PAIR_WAIT_S, Entry, RunQueue
from engine.separation.schedule.song_run import Block, MixSource, RunReport, SongRun, StemSink, read_window

_AHEAD_BYTES = 1 << 28  # of windows, for each member of a bag
_POLL_S = 0.05  # how soon a waiting run sees that it was cancelled


class Batcher:
    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        precision: str = "auto",
        max_batch: int | None = None,
        allow_cpu: bool = True,
        native: NativeLibrary | None = None,
        tuning: Tuning = NO_TUNING,
    ) -> None:
        """Open nothing yet; the device is used from the first run on.

        `precision`: "fp32", "tf32" or "fp16" on a GPU; "auto" is fp16. `max_batch`: the most segments in a batch; by
        default what a GPU's memory takes, up to 16, and on a CPU one, or two that share its threads. `allow_cpu`: the
        CPU stands in while the GPU has no memory for one segment. `native`: compiled operations for the CPU.
        """
        self._executor = Executor(
            torch.device(device),
            precision=precision,
            max_batch=max_batch,
            allow_cpu=allow_cpu,
            native=native,
            tuning=tuning,
        )
        self._native = native
        self._depth = 1 if self.device.type == "cuda" else 0  # batches on the device while the next one is prepared
        self._threads = torch.get_num_threads()
        self._changed = threading.Condition()
        self._runs = RunQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def device(self) -> torch.device:
        return self._executor.device

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
        """Separate one mix; return when the last block is written.

        `on_progress(done, total)` counts segments. `on_cpu()` is called once, before the progress, when the CPU stands
        in for a GPU. Raises `Cancelled`, `OutOfMemory`, `BadOptions`, and what `mix` and `sink` raise.
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
            self._runs.add(run)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve_device, name=f"batcher {self.device}", daemon=True)
                self._thread.start()
        try:
            self._serve_caller(run, mix, sink, on_progress, on_cpu, cancelled)
        finally:
            with self._changed:
                self._runs.remove(run)
                self._changed.notify_all()
        return run.report()

    def close(self) -> None:
        """End all runs, which raise `Cancelled`, and the device's thread."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()
        if self._native is not None:
            self._native.close()

    # The caller's thread

    def _serve_caller(
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
                    self._runs.add_window(run, upcoming, window)
                    self._changed.notify_all()
                upcoming = next(unread, None)
            with self._changed:
                wanted = ahead if upcoming is not None else 0
                self._changed.wait_for(partial(self._has_news, run, reported, wanted), timeout=_POLL_S)
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
                is_on_cpu = any(device != str(self._executor.home) for device in run.devices)
            if is_on_cpu and on_cpu is not None:
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
        """Return how many windows to read before they are computed: two batches of every member, if memory allows.

        It changes while the CPU stands in for a GPU.
        """
        if self._executor.max_batch == 1:
            return 2
        return min(2 * self._executor.max_batch, max(2, _AHEAD_BYTES // window_bytes)) * len(run.model.members)

    def _has_news(self, run: SongRun, reported: int, wanted: int) -> bool:
        return (
            bool(run.blocks)
            or run.failure is not None
            or self._closed
            or run.done > reported
            or len(run.waiting) < wanted
        )

    # The device's thread

    def _serve_device(self) -> None:
        launched: deque[_Launched] = deque()
        last_ended = 0.0
        home = self._executor.home
        on_device = torch.cuda.device(home) if home.type == "cuda" else contextlib.nullcontext()
        use_threads(self._threads)  # those of the creating thread; new threads may have fewer
        with torch.no_grad(), on_device:
            while True:
                with self._changed:
                    batch = self._next_batch()
                    while not batch and not launched:
                        if self._closed or not (self._runs or home.type == "cuda"):
                            self._executor.stop_threads()
                            self._thread = None
                            return
                        self._changed.wait(PAIR_WAIT_S if self._runs.waits_for_other_run else None)
                        batch = self._next_batch()
                if batch:
                    launched.append(self._launch(batch))
                while launched and (not batch or len(launched) > self._depth):
                    last_ended = self._finish(launched.popleft(), last_ended)

    def _next_batch(self) -> list[Entry]:
        if self._closed:
            return []
        return self._runs.next_batch(self._executor.limit, in_pairs=self._executor.wants_pairs)

    def _launch(self, batch: list[Entry]) -> _Launched:
        """Start the work on a batch; a GPU may still work when this returns."""
        launched = _Launched(batch)
        first, segment, _ = batch[0]
        windows = [window for _, _, window in batch]
        note = partial(self._note, batch)
        try:
            while launched.completed < len(batch):
                rest = windows[launched.completed :]
                try:
                    self._executor.compute(first.model, segment.member, rest, launched.use, note)
                except OutOfMemory as error:
                    launched.fail_next(error)
            if self.device.type == "cuda":
                launched.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                launched.event.record()
        except Exception as error:
            launched.fail_all(error)
        launched.device = str(self.device)
        return launched

    def _note(self, batch: list[Entry], sentence: str) -> None:
        with self._changed:
            for run, _, _ in batch:
                run.note(sentence)

    def _finish(self, launched: _Launched, last_ended: float) -> float:
        """Wait for a batch and pass on its final blocks; return its end time."""
        try:
            if launched.event is not None:
                launched.event.synchronize()
        except RuntimeError as error:
            launched.fail_all(error)
        ended = time.monotonic()
        busy_s = ended - max(launched.began, last_ended)
        with self._changed:
            for index, (run, _, _) in enumerate(launched.batch):
                run.done += 1
                run.ended_at = ended
                if launched.device not in run.devices:
                    run.devices.append(launched.device)
                run.busy_s += busy_s / len(launched.batch)
                run.failure = launched.failures.get(index) or run.failure
                block = launched.blocks.get(index)
                if block is not None and not run.is_over:
                    run.blocks.append(block)
            self._changed.notify_all()
        return ended


class _Launched:
    """A batch whose work has started."""

    def __init__(self, batch: list[Entry]) -> None:
        self.batch = batch
        self.began = time.monotonic()
        self.device = ""
        self.blocks: dict[int, Block | None] = {}  # by index in the batch
        self.completed = 0  # windows whose results are used, or whose run failed
        self.failures: dict[int, Exception] = {}  # by index in the batch
        self.event: torch.cuda.Event | None = None  # None: the work has ended
        self._is_added = False  # the next window's stems are in its run, but its block was not taken

    def use(self, _: int, stems: Tensor) -> None:
        """Add the stems of the next window to its run; called again with the same ones after memory ran out."""
        run, segment, _window = self.batch[self.completed]
        if not self._is_added:
            run.add(segment, stems)
            self._is_added = True
        self.blocks[self.completed] = run.take_block()
        self.completed, self._is_added = self.completed + 1, False

    def fail_next(self, error: Exception) -> None:
        """Fail the run of the next window and go on after it."""
        self.failures[self.completed] = error
        self.completed, self._is_added = self.completed + 1, False

    def fail_all(self, error: Exception) -> None:
        self.failures = dict.fromkeys(range(len(self.batch)), error)
