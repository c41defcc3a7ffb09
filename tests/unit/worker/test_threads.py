"""Threads of the attempts of a worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path

import torch

from engine.storage.local import LocalStorage
from engine.worker import worker as module
from engine.worker.process import MessageWriter
from engine.worker.protocol import WorkerConfig

device, folder = sys.argv[1:]
module.device_name = lambda device: device  # there may be no GPU here
module.fault_of = lambda *_: None
config = WorkerConfig(
    device=device, data_dir=folder, cache_dir=folder, threads=3, model_memory_bytes=1 << 30, heartbeat_s=1,
    decode_timeout_s=10, child_memory_bytes=1 << 30, input_bytes=1 << 20,
)
worker = module.Worker(config, MessageWriter(sys.stderr.buffer), LocalStorage(Path(folder)))
print(worker._threads.submit(torch.get_num_threads).result(), worker._batcher._threads)
"""


@pytest.mark.parametrize(("device", "expected"), [("cpu", [3, 3]), ("cuda:0", [2, 1])])
def test_attempts_beside_a_gpu_use_two_threads_each(device: str, expected: list[int], tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, device, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert [int(word) for word in done.stdout.split()] == expected, done.stderr
