"""Properties and errors of devices, and threads of a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOWS_AT_ONCE = 2
"""Windows that a CPU of two or more threads runs at once (`schedule.two_lanes`); more would need more memory."""


def threads_of_a_window() -> int:
    """Return the CPU threads per window: all of them if they cannot be divided evenly."""
    threads = torch.get_num_threads()
    return threads if threads % WINDOWS_AT_ONCE else threads // WINDOWS_AT_ONCE


def device_name(device: str) -> str:
    """Return `cpu`, or the GPU's name."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    if kind == "xpu":
        return str(torch.xpu.get_device_name(device))
    return "Apple GPU" if kind == "mps" else device


def device_memory_bytes(device: str) -> int | None:
    """Return the GPU memory in use by all processes (on Apple's by this one); None for a CPU or if it is unknown."""
    kind = torch.device(device).type
    if kind == "mps":
        return torch.mps.driver_allocated_memory()
    if kind == "cpu":
        return None
    memory = gpu_memory_bytes(device)
    return memory[1] - memory[0] if memory else None


def gpu_memory_bytes(device: str) -> tuple[int, int] | None:
    """Return the free memory of a CUDA or XPU device, and all of it; None if it is unknown."""
    try:
        free, total = (torch.cuda if device.startswith("cuda") else torch.xpu).mem_get_info(device)
    except RuntimeError:  # many Intel GPUs do not report it
        return None
    return int(free), int(total)


def device_is_lost(error: BaseException) -> bool:
    """Return whether an error leaves the GPU unusable for this process (illegal access, failed assertion, ECC).

    Running out of memory does not.
    """
    is_fault = "CUDA error" in str(error) or "HIP error" in str(error)
    return is_fault and not is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch or Python means that the GPU or the machine is out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    texts = (
        "can't allocate memory",
        "not enough memory",
        "ALLOC_FAILED",
        "CUBLAS_STATUS_NOT_INITIALIZED",
        "CUDA error: out of memory",
        "HIP error: out of memory",
        "MPS backend out of memory",
        "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",  # Intel
        "unable to find an engine",  # cuDNN, without memory for any engine
        "can't start new thread",
    )
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


def pinned_memory(*shape: int) -> Tensor:
    """Return memory with which a GPU exchanges data beside its other work; ordinary memory if none is left."""
    try:
        return torch.empty(shape, pin_memory=True)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return torch.empty(shape)


def use_threads(count: int) -> None:
    """Set the threads of an operation on the CPU; 0: all cores."""
    if count:
        torch.set_num_threads(count)


def is_eager_on_cpu(x: Tensor) -> bool:
    """Return whether to split work on `x` for the cache: not on a GPU, nor under torch.compile."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
