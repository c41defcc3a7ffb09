"""What is compiled for a CPU: built once per machine, by a process of its own with the lowest priority, and taken up
between two segments when it is there. Until then, and wherever there is no compiler, the eager core does the work."""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from engine.separation import amx
from engine.separation.builder import Builder, Building, cpu_flags
from engine.separation.compiled import CompiledCore
from engine.separation.device import threads_of_a_window
from engine.separation.products import Products

_FORMAT = 5  # part of every key: a change of the core's code must not find the old kernels
_LOOK_AGAIN_S = 2.0
_CORE_S = 30.0  # of eager work are worth building a core, which takes some minutes
_PRODUCTS_S = 5.0  # and the products, which take some seconds

T = TypeVar("T")
Core = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Kernels:
    """What is compiled in one folder, for as many threads as a window gets. Weights are not in it: networks of one
    architecture share a file, and all of them the products on AMX, which take the place of cores where there is any."""

    def __init__(self, folder: Path, *, build_after_s: float | None = None) -> None:
        """`build_after_s`: seconds of eager work (on an architecture, if it is a core) after which it is worth
        building (inf: only what is there is used), if not the usual ones."""
        self._folder = folder
        self.threads = threads_of_a_window()
        self._on_amx = Building("engine.separation.build_amx", amx.library_key())
        self.has_amx = amx.is_supported() and not (folder / f"{self._on_amx.key}.failed").exists()
        self._build_after_s = build_after_s
        self._lock = threading.Lock()
        self._builder = Builder(folder)
        self._products: Products | None = None

    def core_for(self, member: nn.Module, constants: dict[str, Tensor], spent_s: float) -> Core | None:
        """The compiled core with the weights of `member`, if it is built. `constants`: what the eager core keeps
        beside the weights ("grid", "line"). `spent_s`: seconds of eager work on it so far."""
        building = self._core(member)
        if building is None or not constants:  # there are none before the first pass
            return None
        return self._found(building, lambda library: CompiledCore(library, member, constants), spent_s, _CORE_S)

    def products(self, spent_s: float) -> Products | None:
        """The products on AMX, if they are built. `spent_s`: seconds of eager work so far."""
        with self._lock:
            if self._products is None:
                self._products = self._found(self._on_amx, amx.AmxProducts, spent_s, _PRODUCTS_S)
            return self._products

    def build_now(self, member: nn.Module) -> str | None:
        """What `member` would use, without waiting until it is worth it; why it cannot be had, if so."""
        building = self._on_amx if self.has_amx and amx.suits(member) else self._core(member)
        if building is None:
            return "nothing is compiled for such a network"
        library = self._folder / f"{building.key}.so"
        if library.is_file():
            return None
        if not self._builder.has_compiler():
            return "there is no C++ compiler here"
        library.with_suffix(".failed").unlink(missing_ok=True)
        self._builder.start(building)
        self._builder.wait()
        failed = library.with_suffix(".failed")
        return None if library.is_file() else failed.read_text().strip() if failed.is_file() else "it was not built"

    def close(self) -> None:
        """End a build that is under way."""
        self._builder.close()

    def _core(self, member: nn.Module) -> Building | None:
        recipe = recipe_of(member)
        if recipe is None:
            return None
        threads = {"OMP_NUM_THREADS": str(self.threads)}  # it is compiled in
        return Building("engine.separation.build_kernels", key_of(recipe, self.threads), json.dumps(recipe), threads)

    def _found(self, building: Building, load: Callable[[Path], T], spent_s: float, usual_s: float) -> T | None:
        library = self._folder / f"{building.key}.so"
        if library.is_file():
            try:
                return load(library)
            except (RuntimeError, KeyError, OSError, AttributeError) as error:
                self._builder.say(f"The compiled kernels in {library} cannot be used ({error}); eager mode it is.")
                library.unlink(missing_ok=True)
                library.with_suffix(".failed").touch()
            return None
        is_worth_it = spent_s >= (usual_s if self._build_after_s is None else self._build_after_s)
        if is_worth_it and not library.with_suffix(".failed").exists():
            self._builder.start(building)
        return None


class Switch:
    """Which core a network uses now: looks for a faster one now and then, until it has it."""

    def __init__(self, find: Callable[[dict[str, Tensor], float], Core | None], threads: int | None = None) -> None:
        """`find(constants, seconds of eager work so far)`; `threads`: of a window that it is for, if not for any."""
        self._find = find
        self._threads = threads
        self._lock = threading.Lock()
        self._found: Core | None = None
        self._look_at = 0.0
        self._eager_s = 0.0  # of work so far

    def __call__(self, constants: dict[str, Tensor]) -> Core | None:
        if self._threads not in (None, torch.get_num_threads()):
            return None  # a window without a second one
        with self._lock:
            if self._found is None and time.monotonic() >= self._look_at:
                self._found = self._find(constants, self._eager_s)
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
        "cpu": [platform.machine(), torch.backends.cpu.get_cpu_capability(), cpu_flags()],
        "threads": threads,
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
