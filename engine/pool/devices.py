"""The devices of this machine."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.errors import DeviceNotFound


async def find_devices(names: Sequence[str]) -> list[str]:
    """Resolve "auto" to all CUDA devices, or the CPU. Raises `DeviceNotFound` for a device that does not exist."""
    gpus = await _count_gpus() if set(names) - {"cpu"} else 0
    cuda = [f"cuda:{index}" for index in range(gpus)]
    if "auto" in names:
        return cuda or ["cpu"]
    devices = ["cuda:0" if device == "cuda" else device for device in names]
    for device in devices:
        if device not in (*cuda, "cpu"):
            raise DeviceNotFound(
                f"This machine has no device {device[:40]}. Choose one of: auto, {', '.join((*cuda, 'cpu'))}."
            )
    return devices


async def _count_gpus() -> int:
    """Ask torch in a child process, and only if there is an NVIDIA device file."""
    if not any(re.fullmatch(r"nvidia\d+", entry.name) for entry in Path("/dev").iterdir()):
        return 0
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import torch; print(torch.cuda.device_count())", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return int(out) if out.strip().isdigit() else 0
