"""What the operator wants to know about a device, and how a CPU is to be used."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOWS_AT_ONCE = 2
"""On a CPU with two threads or more (`engine.separation.schedule.two_lanes`). More windows would need more memory."""


def threads_of_a_window() -> int:
    """How many of this thread's threads a window gets on a CPU: all of them where they cannot be shared evenly."""
    threads = torch.get_num_threads()
    return threads if threads % WINDOWS_AT_ONCE else threads // WINDOWS_AT_ONCE


def device_name(device: str) -> str:
    """`cpu`, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def device_memory_bytes(device: str) -> int | None:
    """Memory of the GPU that is in use, by anybody; None for a CPU."""
    if not device.startswith("cuda"):
        return None
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def device_is_lost(error: BaseException) -> bool:
    """Whether an error leaves a GPU unusable for this process (an illegal access, a failed assertion, ECC), so that
    whatever comes after would fail as well. Want of memory does not."""
    return "CUDA error" in str(error) and not is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is want of memory, of a GPU or of the machine, as torch and Python tell of it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    told = (
        "can't allocate memory",
        "not enough memory",
        "ALLOC_FAILED",
        "CUBLAS_STATUS_NOT_INITIALIZED",
        "CUDA error: out of memory",
        "unable to find an engine",  # cuDNN, when there is no memory for any of them
        "can't start new thread",
    )
    return isinstance(error, RuntimeError) and any(text in str(error) for text in told)


def use_threads(count: int) -> None:
    """Threads that one operation on the CPU may use; 0: all cores."""
    if count:
        torch.set_num_threads(count)


def is_eager_on_cpu(x: Tensor) -> bool:
    """Whether to cut the work on `x` up for a cache: not on a GPU, and the compiler does better with the whole."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
