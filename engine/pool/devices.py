"""The devices of this machine."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.errors import DeviceNotFound


async def find_devices(wanted: Sequence[str]) -> list[str]:
    """Resolve "auto" to all CUDA devices, or the CPU. Raises `DeviceNotFound` for a device that does not exist."""
    gpus = await _count_gpus() if set(wanted) - {"cpu"} else 0
    there = [f"cuda:{index}" for index in range(gpus)]
    if "auto" in wanted:
        return there or ["cpu"]
    named = ["cuda:0" if device == "cuda" else device for device in wanted]
    for device in named:
        if device not in (*there, "cpu"):
            raise DeviceNotFound(
                f"There is no device {device[:40]} here. There {'is' if not there else 'are'} "
                f"{', '.join((*there, 'cpu'))}; “auto” takes the best."
            )
    return named


async def _count_gpus() -> int:
    """Ask torch in a child process, and only if there is an NVIDIA device file."""
    if not any(re.fullmatch(r"nvidia\d+", entry.name) for entry in Path("/dev").iterdir()):
        return 0
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import torch; print(torch.cuda.device_count())", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return int(out) if out.strip().isdigit() else 0
