"""Stretch parts of a song in several processes: the library keeps the interpreter lock while it computes."""

from __future__ import annotations

import mmap
import os
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe

import numpy as np
from numpy.typing import NDArray

from engine.errors import DecodingTooExpensive
from engine.media.samples import Samples
from engine.mixes.errors import MixFailed
from engine.mixes.stretch import Part, stretch_part
from engine.process.confinement import confine, die_with_parent


class StretchProcesses:
    """Forked processes. Create them in a process of one thread, before it is confined."""

    def __init__(self, count: int, part_values: int) -> None:
        """`part_values`: the most samples, of all channels together, that a part has before or after."""
        self._processes = [_StretchProcess(part_values) for _ in range(count)]
        self.count = count

    def stretch_parts(self, parts: Iterable[Part], threads: ThreadPoolExecutor) -> Iterator[Samples]:
        """Yield the stretched parts in order. Each process has a part while the next one is prepared.

        `threads`: one for each process, to wait for its answer. Raises `DecodingTooExpensive` if a process ended.
        """
        running: deque[Future[Samples]] = deque()
        for index, part in enumerate(parts):
            stretched = running.popleft().result() if len(running) == self.count else None
            running.append(threads.submit(self._processes[index % self.count].stretch, part))
            if stretched is not None:
                yield stretched
        while running:
            yield running.popleft().result()

    def close(self) -> None:
        """End the processes, and wait for them so that their CPU time is counted."""
        for process in reversed(self._processes):  # a later process has inherited the connections of earlier ones
            process.close()


class _StretchProcess:
    """One process, with shared memory for the samples of a part and a connection for the rest."""

    def __init__(self, part_values: int) -> None:
        self._values: NDArray[np.float32] = np.frombuffer(mmap.mmap(-1, 4 * part_values), np.float32)
        self._connection, theirs = Pipe()
        parent_pid = os.getpid()
        self._pid = os.fork()
        if self._pid:
            theirs.close()
            return
        try:
            self._connection.close()
            die_with_parent(parent_pid=parent_pid)
            confine()
            with suppress(EOFError):
                self._answer_requests(theirs)
        finally:
            os._exit(0)  # the parent's buffered output is not ours

    def stretch(self, part: Part) -> Samples:
        shape = self._share(part.samples)
        try:
            self._connection.send((replace(part, samples=np.empty((0, 0), np.float32)), shape))
            answer = self._connection.recv()
        except (EOFError, OSError) as error:  # it was killed, for example at its limit of CPU time
            raise DecodingTooExpensive(detail="a process that stretches ended") from error
        if isinstance(answer, MemoryError):
            raise answer
        if isinstance(answer, str):
            raise MixFailed(detail=answer)
        return self._shared(answer).copy()

    def close(self) -> None:
        self._connection.close()
        os.waitpid(self._pid, 0)

    def _answer_requests(self, connection: Connection) -> None:
        while True:
            part, shape = connection.recv()
            try:
                connection.send(self._share(stretch_part(replace(part, samples=self._shared(shape)))))
            except MemoryError as error:
                connection.send(error)
            except Exception:
                connection.send(traceback.format_exc()[-800:])

    def _share(self, samples: Samples) -> tuple[int, int]:
        self._values[: samples.size].reshape(samples.shape)[:] = samples
        return samples.shape[0], samples.shape[1]

    def _shared(self, shape: tuple[int, int]) -> Samples:
        return self._values[: shape[0] * shape[1]].reshape(shape)
