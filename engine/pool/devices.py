"""The devices of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.errors import DeviceNotFound
from engine.process.environment import computing_environment

log = logging.getLogger(__name__)

_PATIENCE_S = 60.0
_DEVICE_LIST = Path(__file__).parents[1] / "separation" / "ops" / "device_list.py"
"""Run as a file, because its package imports the whole separation."""


async def find_devices(names: Sequence[str]) -> list[str]:
    """Resolve "auto" to all GPUs of the best kind, or the CPU. Raises `DeviceNotFound` for one that does not exist."""
    gpus = await _list_gpus() if set(names) - {"cpu"} else []
    if "auto" in names:
        return [gpu for gpu in gpus if _kind(gpu) == _kind(gpus[0])] or ["cpu"]
    devices = [f"{name}:0" if name in ("cuda", "xpu") else name for name in names]
    for device in devices:
        if device not in (*gpus, "cpu"):
            raise DeviceNotFound(
                f"This machine has no device {device[:40]} that PyTorch can use. Choose one of: "
                f"{', '.join(('auto', *gpus, 'cpu'))}. `python -m engine doctor` says why a GPU is not used."
            )
    return devices


def torch_build() -> str:
    """Return what this PyTorch computes on: "cpu", "cuda", "rocm" or "xpu". It does not import torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "cpu"
    built = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    kinds = {"cuda": "cuda", "hip": "rocm", "xpu": "xpu"}
    return next((kind for name, kind in kinds.items() if built.get(name)), "cpu")


def _kind(device: str) -> str:
    return device.partition(":")[0]


async def _list_gpus() -> list[str]:
    """Ask torch in a child process, unless it is built for CPUs alone; on a Mac every build has MPS."""
    if sys.platform != "darwin" and torch_build() == "cpu":
        return []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", str(_DEVICE_LIST), stdout=asyncio.subprocess.PIPE, env=computing_environment()
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
        return [str(device) for device in json.loads(out)]
    except (TimeoutError, ValueError):  # it hangs or crashed, for example in a driver
        log.error("PyTorch cannot list the GPUs: the program that asks it ended with %s", process.returncode)
        return []
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
