"""A simulated clock and simulated devices for the real main process.

The time of `SimulatedLoop` is the CPU time of the process; waiting time is skipped. A slow dispatcher is therefore
late, a day takes minutes, and other load on the machine does not change the figures.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite

from engine.jobs.job import Stage
from engine.jobs.options import OutputFormat
from engine.jobs.results import JobResult, StemFiles, StemInfo
from engine.pool.handle import PoolLimits, WorkerHandle
from engine.pool.pool import WorkerPool
from engine.worker.protocol import (
    AttemptSpec,
    Cancel,
    Done,
    Failed,
    Heartbeat,
    Message,
    ModelState,
    Progress,
    Ready,
    Start,
)
from engine.worker.worker import _PROGRESS_INTERVAL_S

START = datetime(2026, 11, 23, tzinfo=UTC)
_STEMS = ("vocals", "drums", "bass", "other")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop that skips waiting time (`skipped_s`). It reads the clock once per iteration."""

    def __init__(self) -> None:
        self.skipped_s = 0.0
        self.used_s = 0.0  # CPU seconds of all threads of the main process
        self.working = 0  # running calls in other threads: their time counts, so it is not skipped
        self._uncounted_s = 0.0
        self._clock_cost_s = 0.0
        self._began = time.process_time()
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.skipped_s + self.used_s

    def read_clock(self) -> None:
        self._uncounted_s += self._clock_cost_s
        self.used_s = max(self.used_s, time.process_time() - self._began - self._uncounted_s)

    def calibrate(self) -> None:
        """Measure the cost of reading the clock, to subtract it; it depends on the number of threads."""
        began = time.process_time()
        for _ in range(2000):
            time.process_time()
        spent_s = time.process_time() - began
        self._uncounted_s += spent_s
        self._clock_cost_s = spent_s / 2000

    def now(self) -> datetime:
        return START + timedelta(seconds=self.time())

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Exclude the time inside from the work of the main process."""
        began = time.thread_time()
        try:
            yield
        finally:
            self._uncounted_s += time.thread_time() - began

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        self.working += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(lambda _: self._on_return())
        return future

    def _on_return(self) -> None:
        self.working -= 1


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        self._loop.read_clock()
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._loop.working or timeout is None:
            return super().select(0.05)
        self._loop.skipped_s += timeout
        return events


class Agenda:
    """The future events of all devices on a grid of `GRID_S`; those due at once share one iteration of the loop."""

    GRID_S = 0.01

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._due: dict[int, list[Callable[[], None]]] = {}
        self._lines: list[tuple[WorkerHandle, bytes]] = []

    def after(self, delay_s: float, do: Callable[[], None]) -> None:
        slot = int((self._loop.time() + delay_s) / self.GRID_S) + 1
        if slot not in self._due:
            self._due[slot] = []
            self._loop.call_at(slot * self.GRID_S, self._run_slot, slot)
        self._due[slot].append(do)

    def send(self, device: WorkerHandle, message: Message) -> None:
        self._lines.append((device, message.line()))

    def _run_slot(self, slot: int) -> None:
        with self._loop.uncounted():
            for do in self._due.pop(slot):
                do()
        lines, self._lines = self._lines, []
        for device, line in lines:
            device.handle_line(line)


def run_simulated(main: Callable[[SimulatedLoop], Any]) -> Any:
    """Run a coroutine function in a simulated loop, with `time.monotonic` as its clock; count SQLite's threads."""
    loop, real_clock, real_execute = SimulatedLoop(), time.monotonic, aiosqlite.Connection._execute

    async def execute(self: aiosqlite.Connection, *args: Any, **kwargs: Any) -> Any:
        loop.working += 1
        try:
            return await real_execute(self, *args, **kwargs)  # type: ignore[no-untyped-call]
        finally:
            loop.working -= 1

    time.monotonic = loop.time
    aiosqlite.Connection._execute = execute  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(main(loop))
    finally:
        time.monotonic = real_clock
        aiosqlite.Connection._execute = real_execute  # type: ignore[method-assign]
        loop.close()


@dataclass
class _Work:
    """One attempt on a device; all attempts get an equal share."""

    spec: AttemptSpec
    total_s: float  # of device time
    left_s: float
    reported_at: float = 0.0


@dataclass
class DeviceTimes:
    """Durations of a job. `seconds_of`: how long each job takes alone on a device."""

    seconds_of: dict[str, float] = field(default_factory=dict)
    before_s: float = 1.0  # fetch, decode
    after_s: float = 1.0  # end of encoding, publishing
    progress_s: float = _PROGRESS_INTERVAL_S
    heartbeat_s: float = 1.0


class SimulatedDevice(WorkerHandle):
    """A worker that sends the protocol's lines and creates empty result files at the simulated times."""

    def __init__(
        self, name: str, limits: PoolLimits, on_change: Callable[[], None], loop: SimulatedLoop, agenda: Agenda,
        times: DeviceTimes, data_dir: Path,
    ) -> None:  # fmt: skip
        super().__init__(name, limits, on_change)
        self._loop, self._agenda, self._times, self._data = loop, agenda, times, data_dir
        self._work: dict[str, _Work] = {}
        self._shared_at = 0.0
        self._turn = 0  # number of the current plan; earlier ones are ignored
        self.busy_s = 0.0
        self.lines = 0
        self.on_start: Callable[[str], None] = lambda job_id: None

    @property
    def deaths(self) -> int:
        return 0

    def kill(self) -> None:
        raise AssertionError("a simulated device is never killed")

    def begin(self) -> None:
        ready = Ready(device=self.name, device_name="simulated", models=(ModelState(name="htdemucs", state="ready"),))
        self._agenda.after(0.0, lambda: self._emit(ready))
        self._agenda.after(0.0, self._beat)

    def _beat(self) -> None:
        self._emit(Heartbeat(rss_bytes=2 << 30, device_bytes=4 << 30))
        self._agenda.after(self._times.heartbeat_s, self._beat)

    def _emit(self, message: Message) -> None:
        self.lines += 1
        self._agenda.send(self, message)

    def _send(self, message: Message) -> None:
        message.line()  # for its cost
        if isinstance(message, Start):
            self.on_start(message.spec.job_id)
            self._agenda.after(0.0, partial(self._take, message.spec))
        elif isinstance(message, Cancel):
            self._agenda.after(0.0, partial(self._cancel, message))

    def _take(self, spec: AttemptSpec) -> None:
        (self._data / spec.scratch_key).mkdir(parents=True)
        self._report(spec, Stage.DECODING, 0.0)
        self._agenda.after(self._times.before_s, partial(self._separate, spec))

    def _cancel(self, message: Cancel) -> None:
        self._share()
        self._work.pop(message.job_id, None)
        self._plan()
        self._emit(Failed(job_id=message.job_id, attempt=message.attempt, code="cancelled", message="Cancelled."))

    def _report(self, spec: AttemptSpec, stage: Stage, fraction: float) -> None:
        self._emit(Progress(job_id=spec.job_id, attempt=spec.attempt, stage=stage, fraction=fraction))

    def _separate(self, spec: AttemptSpec) -> None:
        self._share()
        total_s = self._times.seconds_of[spec.job_id]
        self._work[spec.job_id] = _Work(spec, total_s, total_s, self._loop.time())
        self._plan()
        self._report(spec, Stage.SEPARATING, 0.0)

    def _share(self) -> None:
        now = self._loop.time()
        passed_s, self._shared_at = now - self._shared_at, now
        if self._work:
            self.busy_s += passed_s
            for work in self._work.values():
                work.left_s -= passed_s / len(self._work)

    def _plan(self) -> None:
        self._turn += 1
        if self._work:
            soonest_s = min(work.left_s for work in self._work.values()) * len(self._work)
            self._agenda.after(min(max(0.0, soonest_s), self._times.progress_s), partial(self._continue, self._turn))

    def _continue(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._share()
        now = self._loop.time()
        for work in [work for work in self._work.values() if work.left_s <= 1e-6]:
            del self._work[work.spec.job_id]
            self._report(work.spec, Stage.ENCODING, 0.5)
            self._agenda.after(self._times.after_s, partial(self._finish, work.spec))
        self._plan()
        for work in self._work.values():
            if now - work.reported_at >= self._times.progress_s:
                work.reported_at = now
                self._report(work.spec, Stage.SEPARATING, min(1.0, 1 - work.left_s / work.total_s))

    def _finish(self, spec: AttemptSpec) -> None:
        result = self._result(spec)
        self._emit(Done(job_id=spec.job_id, attempt=spec.attempt, result=result, separating_s=6, input_duration_s=210))

    def _result(self, spec: AttemptSpec) -> JobResult:
        folder = self._data / spec.output_key
        folder.mkdir(parents=True)
        infos = {}
        for stem in _STEMS:
            filename = f"{spec.title} - {stem} - htdemucs.mp3"
            (folder / filename).touch()
            infos[stem] = StemInfo(
                filename=filename, path=f"{spec.output_key}/{filename}", size=8_400_000, duration=210.0,
                format=OutputFormat.MP3, sample_rate=44100, bitrate=320_000, level_db=-20.1, peak_db=-1.0,
                silence_share=0.1,
            )  # fmt: skip
        return JobResult(
            job_id=spec.job_id, output_dir=spec.output_key, stems=StemFiles(**infos), processing_time=8,
            model_used="htdemucs", file_size=33_600_000, waveform_path=f"{spec.output_key}/waveform.png",
            peaks_path=f"{spec.output_key}/peaks.json",
        )  # fmt: skip


class SimulatedPool(WorkerPool):
    """The real pool with simulated devices."""

    def __init__(self, devices: int, limits: PoolLimits, loop: SimulatedLoop, times: DeviceTimes, data: Path) -> None:
        super().__init__([], limits)
        agenda = Agenda(loop)
        self._simulated = [
            SimulatedDevice(f"sim:{number}", limits, self._change, loop, agenda, times, data)
            for number in range(devices)
        ]
        self.devices = self._simulated

    @property
    def workers(self) -> list[WorkerHandle]:
        return [*self._simulated]

    def begin(self, on_change: Callable[[], None], on_start: Callable[[str], None]) -> None:
        self._on_change = on_change
        for device in self._simulated:
            device.on_start = on_start
            device.begin()
