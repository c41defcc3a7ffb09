"""Compiled cores for a CPU: built once per network architecture and machine, by a process of its own with the lowest
priority, and taken up between two segments when they are there. Until then, and wherever there is no compiler, the
eager core does the work."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.separation.compiled import CompiledCore
from engine.separation.device import threads_of_a_window

log = logging.getLogger(__name__)

_FORMAT = 4  # part of every key: a change of the core's code must not find the old kernels
_LOOK_AGAIN_S = 2.0
_WORTH_BUILDING_S = 30.0  # of eager work: building takes some minutes of a core

Core = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Kernels:
    """The compiled cores in one folder, for as many threads as a window gets. Weights are not in them: networks of one
    architecture share a file."""

    def __init__(self, folder: Path, *, build_after_s: float = _WORTH_BUILDING_S) -> None:
        """`build_after_s`: seconds of eager work on an architecture after which it is worth building (inf: only what
        is there is used)."""
        self._folder = folder
        self.threads = threads_of_a_window()
        self._build_after_s = build_after_s
        self._lock = threading.Lock()
        self._builder: subprocess.Popen[bytes] | None = None
        self._tried: set[str] = set()
        self._said: set[str] = set()

    def core_for(self, member: nn.Module, constants: dict[str, Tensor], spent_s: float) -> Core | None:
        """The compiled core with the weights of `member`, if it is built. `constants`: what the eager core keeps
        beside the weights ("grid", "line"). `spent_s`: seconds of eager work on it so far."""
        recipe = recipe_of(member)
        if recipe is None:
            return None
        key = key_of(recipe, self.threads)
        library = self._folder / f"{key}.so"
        if library.is_file():
            try:
                return CompiledCore(library, member, constants)
            except (RuntimeError, KeyError, OSError, AttributeError) as error:
                self._say(f"The compiled kernels in {library} cannot be used ({error}); eager mode it is.")
                library.unlink(missing_ok=True)
                library.with_suffix(".failed").touch()
        elif spent_s >= self._build_after_s and not library.with_suffix(".failed").exists():
            self._start_building(key, recipe)
        return None

    def close(self) -> None:
        """End a build that is under way."""
        with self._lock:
            if self._builder is not None and self._builder.poll() is None:
                assert self._builder.stdin is not None
                self._builder.stdin.close()  # it ends itself, and the compilers that it started
                self._builder.wait()

    def _start_building(self, key: str, recipe: dict[str, Any]) -> None:
        if shutil.which(os.environ.get("CXX", "g++")) is None:
            self._say("There is no C++ compiler here, so networks run in eager mode.")
            return
        with self._lock:
            if key in self._tried or (self._builder is not None and self._builder.poll() is None):
                return  # one at a time, and each once: a builder that was killed would be killed again
            self._tried.add(key)
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{key}.log").open("wb") as output:
                self._builder = subprocess.Popen(
                    [sys.executable, "-m", "engine.separation.build_kernels", str(self._folder), key],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=os.environ | {"OMP_NUM_THREADS": str(self.threads)},  # it is compiled in
                )
            assert self._builder.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._builder.stdin.write(json.dumps(recipe).encode() + b"\n")
                self._builder.stdin.flush()
        log.info("building faster kernels in the background, %s/%s", self._folder, key)

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            log.info(sentence)


class KernelSwitch:
    """Which core a network uses now: looks for a compiled one now and then, until it has it."""

    def __init__(self, kernels: Kernels, member: nn.Module) -> None:
        self._kernels = kernels
        self._member = member
        self._lock = threading.Lock()
        self._found: Core | None = None
        self._look_at = 0.0
        self._eager_s = 0.0  # of work so far

    def __call__(self, constants: dict[str, Tensor]) -> Core | None:
        if torch.get_num_threads() != self._kernels.threads:
            return None  # a window without a second one
        with self._lock:
            if self._found is None and constants and time.monotonic() >= self._look_at:
                self._found = self._kernels.core_for(self._member, constants, self._eager_s)
                self._look_at = time.monotonic() + _LOOK_AGAIN_S
            return self._found

    def worked(self, seconds: float) -> None:
        """In eager mode."""
        with self._lock:
            self._eager_s += seconds


def recipe_of(member: Any) -> dict[str, Any] | None:
    """How to make a network of the same architecture; None where that cannot be written down."""
    made_with = getattr(member, "_init_args_kwargs", None)
    if made_with is None:
        return None
    recipe = {
        "klass": f"{type(member).__module__}.{type(member).__qualname__}",
        "args": list(made_with[0]),
        "kwargs": dict(made_with[1]),
        "segment": member.segment,
    }
    try:
        found: dict[str, Any] = json.loads(json.dumps(recipe, default=_fraction, sort_keys=True))
    except TypeError:
        return None
    return found


def _fraction(value: object) -> object:
    if isinstance(value, Fraction):
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
    raise TypeError


def decoded(value: dict[str, Any]) -> object:
    """The fractions in a recipe, as `json`'s object hook."""
    return Fraction(value["numerator"], value["denominator"]) if value.get("_type") == "fraction" else value


def key_of(recipe: dict[str, Any], threads: int) -> str:
    """Names the kernels of an architecture on this machine, this torch and this number of threads."""
    parts = {
        "recipe": recipe,
        "format": _FORMAT,
        "torch": torch.__version__,
        "cpu": [platform.machine(), torch.backends.cpu.get_cpu_capability(), _cpu_flags()],
        "threads": threads,
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _cpu_flags() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "flags")):
                return sha256(line.encode()).hexdigest()[:12]
    return platform.processor()
