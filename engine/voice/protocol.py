"""What the main process and the child process of a voice channel send to each other.

The child reads lines from its standard input: an empty line asks for one packet, any other line is a `Command` as JSON.
It writes packets to its standard output.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum

FRAME_S = 0.02
SILENCE = b"\xf8\xff\xfe"
"""An Opus frame of silence."""

_LONGEST_S = 1e6
_HEADER = struct.Struct(">BdH")  # kind, position, size of the frame


class PacketKind(IntEnum):
    AUDIO = 0
    PAUSED = 1
    ENDED = 2


@dataclass(frozen=True)
class Packet:
    """One Opus frame of 20 ms, and the position in the song at which it begins."""

    kind: PacketKind
    position_s: float
    frame: bytes

    def encode(self) -> bytes:
        return _HEADER.pack(self.kind, self.position_s, len(self.frame)) + self.frame


class PacketParser:
    """Splits the child's output into packets."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield the complete packets so far. Raises `ValueError` for other bytes."""
        self._rest += data
        while len(self._rest) >= _HEADER.size:
            kind, position_s, size = _HEADER.unpack_from(self._rest)
            end = _HEADER.size + size
            if len(self._rest) < end:
                return
            if not 0 <= position_s < _LONGEST_S:
                raise ValueError(position_s)
            frame, self._rest = self._rest[_HEADER.size : end], self._rest[end:]
            yield Packet(PacketKind(kind), position_s, frame)


@dataclass(frozen=True)
class Command:
    """A change of what is played; None: as before."""

    gains: list[float] | None = None
    """One for each stem."""
    volume: float | None = None
    is_paused: bool | None = None
    seek_s: float | None = None
    loop_s: tuple[float, float] | None = None
    """Start and end of the part to repeat; an end of 0 ends the repetition."""

    def encode(self) -> bytes:
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(values).encode() + b"\n"

    @staticmethod
    def decode(line: bytes) -> Command:
        values = json.loads(line)
        if "loop_s" in values:
            values["loop_s"] = tuple(values["loop_s"])
        return Command(**values)
