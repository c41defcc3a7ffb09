"""`python -m engine doctor`: devices, versions, memory and models of this machine, and whether Stemify can run."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import av
import torch

from config.settings import Settings
from engine.backend import prepare_folder, worker_config
from engine.cli.models import model_library
from engine.errors import DeviceNotFound, StemifyError
from engine.jobs.models import MODELS
from engine.pool.devices import find_devices, torch_build
from engine.process.cpus import usable_cpus
from engine.separation.models.library import ModelLibrary
from engine.separation.ops.device import device_name, gpu_memory_bytes
from engine.separation.ops.device_list import gpus
from engine.worker.worker import usable_device

_PACKAGES = ("demucs", "discord.py", "yt-dlp", "av", "numpy")
_DISPLAY_CLASS = "0x03"
_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
_BUILD_OF_VENDOR = {"NVIDIA": "cuda", "AMD": "rocm", "Intel": "xpu"}
_DEMOTED = {True: "used in single precision only", False: "not used"}
_CONTAINER = Path("/sys/fs/cgroup")
_LEAST_MEMORY_BYTES = 2 << 30
_LEAST_DISK_BYTES = 1 << 30


def examine(settings: Settings) -> tuple[list[str], list[str]]:
    """Return the lines of the report, and what keeps Stemify from working here."""
    models = model_library(settings)
    problems: list[str] = []
    lines = [*_versions(), "", *_memory(problems), "", *_devices(settings, models, problems), ""]
    lines += [*_models(models), "", *_data(settings, problems), ""]
    return lines, problems


def _versions() -> Iterator[str]:
    yield f"Stemify {version('stemify')}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield f"PyTorch {torch.__version__} ({torch_build()} build), FFmpeg {av.ffmpeg_version_info}"
    yield ", ".join(f"{package} {version(package)}" for package in _PACKAGES)


def _memory(problems: list[str]) -> Iterator[str]:
    total, free = _memory_bytes()
    yield f"memory   {_size(total)}, of which {_size(free)} are free"
    yield f"CPUs     {usable_cpus()} of {os.cpu_count()}"
    if free < _LEAST_MEMORY_BYTES:
        problems.append(f"Free some memory: {_size(_LEAST_MEMORY_BYTES)} are needed, {_size(free)} are free.")


def _devices(settings: Settings, models: ModelLibrary, problems: list[str]) -> Iterator[str]:
    found = gpus()
    works = False
    for device in found:
        config = worker_config(settings, device)
        usable, fault = usable_device(config, models)
        works = works or usable.device == device
        name, memory = _name_and_memory(device)
        state = "works" if not fault else f"{_DEMOTED[usable.device == device]}, because {fault}"
        yield f"{device:8} {name}{memory}: {state}"
    yield "cpu      works"
    for vendor in sorted(display_vendors()):
        if not works and not any(_vendor_of(device) == vendor for device in found):
            yield f"         {vendor} graphics: not used, because {_why_not(vendor)}"
    try:
        asyncio.run(find_devices(settings.workers.devices))
    except DeviceNotFound as error:
        problems.append(f"{error.message} STEMIFY_WORKERS__DEVICES chooses it.")


def _name_and_memory(device: str) -> tuple[str, str]:
    try:
        memory = gpu_memory_bytes(device) if device != "mps" else None
        return device_name(device), f", {_size(memory[0])} of memory are free" if memory else ""
    except RuntimeError:  # its driver failed during the test
        return "GPU", ""


def _models(models: ModelLibrary) -> Iterator[str]:
    words = {"ready": "ready", "to_fetch": "downloaded at first use"}
    for state in models.states():
        size = f", {_size(state.size_bytes)}" if state.size_bytes else ""
        yield f"{state.name:16} {words.get(state.state, f'unavailable: {state.reason}')}{size}"


def _data(settings: Settings, problems: list[str]) -> Iterator[str]:
    try:
        folder = prepare_folder(settings.data_dir)
    except StemifyError as error:
        problems.append(error.message)
        return
    free = shutil.disk_usage(folder).free
    yield f"data     {folder}, {_size(free)} are free"
    if free < _LEAST_DISK_BYTES:
        problems.append(f"Free some space on the disk of {folder}: {_size(free)} are left.")


def _why_not(vendor: str) -> str:
    build = _BUILD_OF_VENDOR[vendor]
    if torch_build() != build:
        return f"this PyTorch is a {torch_build()} build; docs/devices.md says how to install the {build} build"
    try:
        (torch.xpu if build == "xpu" else torch.cuda).init()
    except (RuntimeError, AssertionError) as error:
        return f"its driver does not answer: {str(error).splitlines()[0][:200]}"
    return "PyTorch does not find it"


def display_vendors(root: Path = Path("/sys/bus/pci/devices")) -> set[str]:
    """Return the makers of the graphics cards on the PCI bus; under WSL 2, where it is hidden, NVIDIA."""
    found = {"NVIDIA"} if Path("/dev/dxg").exists() and shutil.which("nvidia-smi") else set()
    for device in root.glob("*"):
        try:
            kind, vendor = (device / "class").read_text().strip(), (device / "vendor").read_text().strip()
        except OSError:
            continue
        if kind.startswith(_DISPLAY_CLASS) and vendor in _VENDORS:
            found.add(_VENDORS[vendor])
    return found


def _vendor_of(device: str) -> str:
    if device.startswith("xpu"):
        return "Intel"
    return "AMD" if torch_build() == "rocm" else "NVIDIA"


def _memory_bytes() -> tuple[int, int]:
    """Return the memory of the machine or container, and what of it programs can have."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):  # not Linux
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    try:  # of a container
        limit, used = (int((_CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
        used -= int(statistics.get("inactive_file", 0))  # files in memory, which make room for programs
    except (OSError, ValueError):  # there is no limit
        return total, free
    return min(total, limit), min(free, limit - used)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


def _download(settings: Settings) -> Iterator[str]:
    """Yield a sentence if the first song will wait for a download."""
    default = settings.discord.default_model
    for state in model_library(settings).states():
        if state.name == default and state.state == "to_fetch":
            size_bytes = MODELS[default].download_bytes
            size = f" ({_size(size_bytes)})" if size_bytes else ""
            yield f"The first song waits for the download of {default}{size}."


def run_doctor(settings: Settings) -> int:
    """Print the report; return exit code 1 if something must be done first."""
    lines, problems = examine(settings)
    for line in lines:
        print(line)
    for problem in problems:
        print(problem)
    if not problems:
        print("Ready: start with `python -m bot`, or `python -m engine serve` without Discord.", *_download(settings))
    return 1 if problems else 0
