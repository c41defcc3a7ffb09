"""The main process's side of a voice channel: Opus frames from the child process, commands to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engine.media.sandbox import start_module
from engine.voice.protocol import SILENCE, Command, Packet, PacketKind, PacketParser

log = logging.getLogger(__name__)

AHEAD_PACKETS = 8
"""Asked for in advance: 160 ms, after which a change is heard."""
_ASKED_AT_ONCE = 4  # of them; to wake the child for each would cost as much as the decoding
_MEMORY_BYTES = 1024**3  # address space
_CPU_S = 100_000
_END_GRACE_S = 2.0


class VoiceStream:
    """A song that is played. `read_frame` may be called by another thread than the other methods."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        stems: tuple[str, ...],
        duration_s: float,
        tempo: float,
        start_s: float,
    ) -> None:
        assert child.stdin is not None and child.stdout is not None
        self.stems = stems
        self.duration_s = duration_s
        """Of the song at its own tempo."""
        self.has_ended = False
        self.has_failed = False
        """Whether the child process has ended before the song."""
        self.is_paused = False
        """Whether the frame that was read last belongs to a pause."""
        self.missed_frames = 0
        self._tempo = tempo
        self._child = child
        self._in = child.stdin.fileno()
        self._out = child.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._parser = PacketParser()
        self._packets: deque[Packet] = deque()
        self._position_s = start_s / tempo
        self._has_started = False
        self._taken = 0  # packets since the child was last asked
        self._lock = threading.Lock()
        self._write(b"\n" * AHEAD_PACKETS)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def position_s(self) -> float:
        """Where the frame that was read last begins, at the song's own tempo."""
        return self._position_s * self._tempo

    def read_frame(self) -> bytes:
        """Return the next 20 ms of Opus without waiting: silence if there is nothing to play."""
        with self._lock:
            self._fill()
            if not self._packets:
                if self._has_started and not self.has_ended:
                    self.missed_frames += 1
                return SILENCE
            packet = self._packets.popleft()
            self._has_started = True
            self._position_s = packet.position_s
            self.has_ended, self.is_paused = packet.kind is PacketKind.ENDED, packet.kind is PacketKind.PAUSED
            self._taken += 1
            if self._taken == _ASKED_AT_ONCE:
                self._taken = 0
                self._write(b"\n" * _ASKED_AT_ONCE)
            return packet.frame

    def set_gains(self, gains: Mapping[str, float]) -> None:
        """Set the gain of every stem; 1 if a stem is not named."""
        self._send(Command(gains=[gains.get(stem, 1.0) for stem in self.stems]))

    def set_volume(self, volume: float) -> None:
        self._send(Command(volume=volume))

    def set_paused(self, is_paused: bool) -> None:
        self._send(Command(is_paused=is_paused))

    def seek(self, position_s: float) -> None:
        """Continue at a position in the song; the end is the last possible one."""
        at_s = min(max(0.0, position_s), self.duration_s) / self._tempo
        with self._lock:
            self.has_ended = False
        self._send(Command(seek_s=at_s))

    def set_loop(self, start_s: float, end_s: float) -> None:
        """Repeat a part."""
        self._send(Command(loop_s=(start_s / self._tempo, end_s / self._tempo)))

    def clear_loop(self) -> None:
        self._send(Command(loop_s=(0.0, 0.0)))

    async def close(self) -> None:
        """End the child process. Repeated calls are safe."""
        self._child.kill()
        await asyncio.to_thread(self._child.wait)
        with self._lock:
            self.has_failed = self.has_ended = True
            for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _send(self, command: Command) -> None:
        with self._lock:
            self._write(command.encode())

    def _write(self, data: bytes) -> None:
        if not self.has_failed:
            # A full pipe belongs to a child that does not read; it will be found dead or stay silent.
            with contextlib.suppress(BrokenPipeError, BlockingIOError):
                os.write(self._in, data)

    def _fill(self) -> None:
        while not self.has_failed:
            try:
                data = os.read(self._out, 65536)
            except BlockingIOError:
                return
            if not data:
                self._fail()
                return
            try:
                self._packets += self._parser.feed(data)
            except ValueError:  # from a child that untrusted bytes may control
                self._fail()

    def _fail(self) -> None:
        self.has_failed = True
        assert self._child.stderr is not None
        self._child.kill()
        text = self._child.stderr.read(4096)[-500:].decode(errors="replace").strip()
        log.warning("the player of a voice channel has ended", extra={"status": self._child.wait(), "reason": text})


def start_stream(
    stems: Mapping[str, Path], *, gain_db: float, duration_s: float, start_s: float, tempo: float, niceness: int
) -> VoiceStream:
    """Start the child process with open files of the stems; blocks for milliseconds.

    `gain_db`: the common gain of the stems, which is undone. `duration_s` and `start_s` are at the song's own tempo.
    """
    with ExitStack() as files:
        descriptors = [files.enter_context(path.open("rb")).fileno() for path in stems.values()]
        request: dict[str, Any] = {
            "stems": descriptors,
            "level": 10 ** (-gain_db / 20),
            "start_s": start_s / tempo,
            "niceness": niceness,
            "limits": {"memory_bytes": _MEMORY_BYTES, "cpu_s": _CPU_S, "file_bytes": 1 << 20},
        }
        child = start_module("engine.voice.child", request, stdin=subprocess.PIPE, descriptors=descriptors)
    return VoiceStream(child, tuple(stems), duration_s, tempo, start_s)
