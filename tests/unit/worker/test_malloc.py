"""Freed memory under the tuned malloc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
from engine.worker.malloc import trim_heap, tune_malloc
from engine.worker.process import resident_bytes

tune_malloc()
before = resident_bytes()
blocks = [np.ones(1 << 20) for _ in range(20)]  # 160 MiB
del blocks
kept = resident_bytes() - before
trim_heap()
print(kept >> 20, (resident_bytes() - before) >> 20)
"""


def test_freed_memory_is_kept_until_trim() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("needs glibc")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    kept_mib, left_mib = map(int, done.stdout.split())
    assert kept_mib > 100
    assert left_mib < 30
