"""The GPUs that torch can use; as a program, it prints them as JSON.

The main process asks this child process, because it does not import torch.
"""

from __future__ import annotations

import json
import sys

import torch


def gpus() -> list[str]:
    """Return all GPUs, best kind first: CUDA (NVIDIA, or AMD in a ROCm build), Intel's XPU, Apple's MPS."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    xpu = [f"xpu:{index}" for index in range(torch.xpu.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return cuda + xpu + mps


if __name__ == "__main__":
    sys.stdout.write(json.dumps(gpus()))
