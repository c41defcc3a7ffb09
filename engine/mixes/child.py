"""The child process that renders a mix (`engine.media.sandbox.run_module`).

It lowers its priority, limits its resources and gives up paths, network and new processes before it reads.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from engine.media.sandbox_child import answer_request, limit_resources, print_json
from engine.mixes.errors import MixFailed
from engine.process.confinement import confine
from engine.process.cpus import usable_cpus

_MOST_STRETCH_PROCESSES = 2  # each takes up to 0.5 GB, and the encoders keep a core busy, too


def main(arguments: list[str]) -> None:
    answer_request(arguments, _run, MixFailed)


def _run(request: dict[str, Any]) -> dict[str, Any]:
    import av.logging

    from engine.mixes.protocol import RenderRequest
    from engine.mixes.render import render, start_threads

    os.nice(request["niceness"])
    av.logging.set_level(None)
    import_lazy_modules(request["render"]["format"])
    limit_resources(**request["limits"])
    render_request = RenderRequest(**request["render"])
    count = len(render_request.outputs)
    processes = None
    if render_request.is_stretched:
        from engine.mixes.stretch import most_part_values  # its library is not available everywhere
        from engine.mixes.stretch_processes import StretchProcesses

        processes = StretchProcesses(min(_MOST_STRETCH_PROCESSES, usable_cpus()), most_part_values())
        count += processes.count
    threads = ThreadPoolExecutor(count, thread_name_prefix="mix")
    print_json({"sandbox": confine(lambda: start_threads(threads, count))})
    rendered = render(render_request, threads, processes)
    if processes:
        processes.close()
    return asdict(rendered)


def import_lazy_modules(output_format: str) -> None:
    """Encode and read a tiny file, so PyAV and codecs import what they load on first use."""
    from pathlib import Path

    import numpy as np

    from engine.media.encode import StemEncoder
    from engine.mixes.reader import StemsReader

    file = os.memfd_create("tiny stem")
    encoder = StemEncoder(Path("tiny"), descriptor=os.dup(file), format=output_format, sample_rate=44100)
    encoder.write(np.zeros((2, 4096), np.float32))
    encoder.close()
    os.lseek(file, 0, os.SEEK_SET)
    with StemsReader([file]) as reader:
        reader.stems[0].cover()
        list(reader.blocks(0, None))
