"""A compiled core, from its library: a real one, of a small network."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.separation import build_kernels
from engine.separation.compiled import CompiledCore

WIDTH, STEPS = 1024, 10


class Core(nn.Module):
    """Two results of two inputs, by the weights of a network and a constant, and long enough to be watched."""

    def __init__(self, member: nn.Module) -> None:
        super().__init__()
        self.member = member
        self.register_buffer("line", torch.arange(WIDTH).float())

    def forward(self, spectrum: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
        x = spectrum
        for _ in range(STEPS):
            x = self.member(x)
        return x, mix + self.get_buffer("line")


def member(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(WIDTH, WIDTH).requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no compiler here")
    folder = tmp_path_factory.mktemp("kernels")
    # in a process of its own, as always: the compiler leaves processes and files behind
    script = f"from {__name__} import build; build({str(folder)!r})"
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=Path(__file__).parents[2])
    return folder / "core.so"


def build(folder: str) -> None:
    exported = torch.export.export(Core(member(0)).eval(), inputs(0))
    inductor: Any = torch._inductor
    package = inductor.aoti_compile_and_package(
        exported, package_path=f"{folder}/core.pt2", inductor_configs=build_kernels.SETTINGS
    )
    build_kernels.take_library(Path(package), Path(folder, "core.so"))


def inputs(seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(1, WIDTH, WIDTH), torch.randn(1, WIDTH)


def compiled(library: Path, network: nn.Module) -> CompiledCore:
    return CompiledCore(library, network, {"line": Core(network).get_buffer("line")})


def test_a_compiled_core_gives_what_the_network_gives_with_its_own_weights(library: Path) -> None:
    for seed in (1, 2):
        network = member(seed)
        for expected, found in zip(
            Core(network)(*inputs(seed)), compiled(library, network)(*inputs(seed)), strict=True
        ):
            torch.testing.assert_close(found, expected)


def test_two_threads_and_several_windows_get_their_own_results(library: Path) -> None:
    network = member(3)
    core = compiled(library, network)
    given = [inputs(seed) for seed in range(4)]
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def run(pair: int) -> None:
        both = (torch.cat(each) for each in zip(*given[2 * pair : 2 * pair + 2], strict=True))
        found[pair] = core(*both)

    threads = [threading.Thread(target=run, args=(pair,)) for pair in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, each in enumerate(given):
        for expected, results in zip(Core(network)(*each), found[seed // 2], strict=True):
            torch.testing.assert_close(results[seed % 2 : seed % 2 + 1], expected)


def test_other_threads_go_on_while_a_compiled_core_works(library: Path) -> None:
    core, given = compiled(library, member(4)), inputs(4)
    ticks: list[float] = []
    over = threading.Event()

    def tick() -> None:
        while not over.wait(0.001):
            ticks.append(time.monotonic())

    ticking = threading.Thread(target=tick)
    ticking.start()
    began = time.monotonic()
    core(*given)
    ended = time.monotonic()
    over.set()
    ticking.join()
    margin = 0.2 * (ended - began)
    assert any(began + margin < at < ended - margin for at in ticks)


def test_a_core_that_is_gone_keeps_no_weights(library: Path) -> None:
    network = member(5)
    core = compiled(library, network)
    core(*inputs(5))
    weight = weakref.ref(next(network.parameters()))
    del core, network
    gc.collect()
    assert weight() is None


def test_a_library_of_another_network_is_refused(library: Path) -> None:
    with pytest.raises(KeyError):
        CompiledCore(library, nn.Identity(), {})
