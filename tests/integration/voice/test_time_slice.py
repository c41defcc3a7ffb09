"""The time slices of the threads that send sound, read back from the kernel."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bot.voice.time_slice import shorten_time_slice

SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
KERNEL = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2]) if os.name == "posix" else (0, 0)


def slice_and_niceness() -> tuple[int, int]:
    attributes = ctypes.create_string_buffer(48)
    number, thread_id = SCHED_GETATTR[platform.machine()], threading.get_native_id()
    assert ctypes.CDLL(None).syscall(number, thread_id, attributes, 48, 0) == 0
    _, _, _, niceness, _, runtime_ns, _, _ = struct.unpack("=IIQiIQQQ", attributes.raw)
    return runtime_ns, niceness


def shortened() -> tuple[bool, int, int]:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 3)
    return shorten_time_slice(), *slice_and_niceness()


@pytest.mark.skipif(platform.system() != "Linux" or KERNEL < (6, 12), reason="needs Linux 6.12")
def test_slice_of_one_thread_is_shortened_at_its_priority() -> None:
    before = slice_and_niceness()
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(shortened).result() == (True, 100_000, 3)
    assert slice_and_niceness() == before
