"""The child process of a voice channel (`engine.media.sandbox.start_module`).

It lowers its priority, limits its resources and gives up paths, network and new processes before it reads. It makes a
packet only when one is asked for, so the number of packets ahead is up to the main process.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from engine.media.sandbox_child import limit_resources
from engine.process.confinement import confine, die_with_parent
from engine.voice.protocol import Command

_IN, _OUT = 0, 1


def main(arguments: list[str]) -> None:
    os.umask(0o077)
    request = json.loads(arguments[0])
    die_with_parent(parent_pid=request["parent_pid"])
    _run(request)


def _run(request: dict[str, Any]) -> None:
    import av.logging

    from engine.mixes.child import import_lazy_modules
    from engine.voice.song import Song

    os.nice(request["niceness"])
    av.logging.set_level(None)
    import_lazy_modules("flac")
    limit_resources(**request["limits"])
    confine()
    song = Song(request["stems"], level=request["level"], start_s=request["start_s"])
    rest = b""
    while data := os.read(_IN, 65536):
        *lines, rest = (rest + data).split(b"\n")
        packets = []
        for line in lines:
            if line:
                song.apply(Command.decode(line))
            else:
                packets.append(song.next_packet().encode())
        _write(b"".join(packets))
    sys.stdout.flush()
    os._exit(0)  # closing a broken container can crash


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(_OUT, data) :]
