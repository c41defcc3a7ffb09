"""Run a worker on one device: `python -m engine.worker '<WorkerConfig as JSON>'`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import NoReturn

from engine.logs import configure
from engine.process.confinement import die_with_parent, forbid_inspection
from engine.worker.malloc import tune_malloc
from engine.worker.process import MessageWriter, open_worker_storage, torch_threads
from engine.worker.protocol import WorkerConfig

log = logging.getLogger("engine.worker")


def main() -> NoReturn:
    die_with_parent()
    os.umask(0o077)
    forbid_inspection()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the parent decides
    config = WorkerConfig.model_validate_json(sys.argv[1])
    # The protocol gets the real stdout; stray prints go to stderr, which is the log.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    configure(config.log_level, json_lines=config.json_lines)
    tune_malloc()
    if threads := torch_threads(config):
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    from engine.worker.worker import Worker  # imports torch, which reads the environment only then

    try:
        worker = Worker(config, MessageWriter(out), open_worker_storage(config))
    except (RuntimeError, AssertionError) as error:  # from torch: the GPU is gone or its driver has changed
        log.critical("the device %s cannot be opened: %s", config.device, f"{error}".partition("\n")[0])
        os._exit(1)
    worker.serve(sys.stdin.buffer)
    worker.close()
    os._exit(0)  # do not wait for threads in native code


if __name__ == "__main__":
    main()
