"""Compiled cores: when they are built, when they are used, and what happens when they cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from engine.separation import amx
from engine.separation import kernels as kernels_module
from engine.separation.builder import Building
from engine.separation.forward import HybridForward, forward_of
from engine.separation.kernels import Kernels, decoded, key_of, recipe_of
from tests.tiny_models import HTDEMUCS, awake, tiny_hdemucs, tiny_htdemucs


@pytest.fixture(autouse=True)
def without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx, "is_supported", lambda: False)  # it would take the place of compiled cores


def passes(kernels: Kernels, count: int = 2) -> HybridForward:
    network = awake(tiny_htdemucs(segment=1))
    forward = forward_of(network, kernels)
    windows = torch.randn(1, 2, 44100)
    expected = forward_of(network)(windows)
    for _ in range(count):
        torch.testing.assert_close(forward(windows), expected)
    assert isinstance(forward, HybridForward)
    return forward


def test_without_a_compiler_it_stays_eager_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(kernels_module, "_LOOK_AGAIN_S", 0.0)
    with caplog.at_level("INFO"):
        kernels = Kernels(tmp_path, build_after_s=0)
        kernels.threads = torch.get_num_threads()  # the windows come alone
        passes(kernels, 4)
    assert sum("no C++ compiler" in record.message for record in caplog.records) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_little_work_is_not_worth_building_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_module, "_LOOK_AGAIN_S", 0.0)
    kernels = Kernels(tmp_path / "kernels")
    kernels.threads = torch.get_num_threads()
    passes(kernels, 4)
    assert not (tmp_path / "kernels").exists()


def test_kernels_that_cannot_be_loaded_are_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_module, "_LOOK_AGAIN_S", 0.0)
    recipe = recipe_of(tiny_htdemucs(segment=1))
    assert recipe is not None
    kernels = Kernels(tmp_path, build_after_s=0)
    kernels.threads = torch.get_num_threads()  # the windows come alone
    (tmp_path / f"{key_of(recipe, kernels.threads)}.so").write_bytes(b"not a library")
    passes(kernels, 4)
    assert [path.suffix for path in tmp_path.iterdir()] == [".failed"]


def test_a_recipe_makes_the_same_architecture() -> None:
    recipe = json.loads(json.dumps(recipe_of(tiny_htdemucs())), object_hook=decoded)
    assert recipe["kwargs"] == HTDEMUCS
    assert recipe["segment"] == HTDEMUCS["segment"]


def test_kernels_are_told_apart_by_architecture_and_threads() -> None:
    recipes = [recipe_of(tiny_htdemucs(1)), recipe_of(tiny_htdemucs(2)), recipe_of(tiny_htdemucs(segment=3))]
    keys = [key_of(recipe, 1) for recipe in recipes if recipe is not None]
    assert keys[0] == keys[1] != keys[2]
    assert recipes[0] is not None
    assert key_of(recipes[0], 2) != keys[0]


def test_a_network_that_is_not_compiled_says_why_and_is_left_alone(tmp_path: Path) -> None:
    recipe = json.dumps(recipe_of(tiny_hdemucs()))
    command = [sys.executable, "-m", "engine.separation.build_kernels", str(tmp_path), "key"]
    # Its input stays open while it works: the end of it would mean that nobody waits any more.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as builder:
        assert builder.stdin is not None
        builder.stdin.write(recipe.encode() + b"\n")
        builder.stdin.flush()
        assert builder.wait(90) != 0
    assert "not compiled" in (tmp_path / "key.failed").read_text()


def test_the_builder_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    builder = Kernels(tmp_path, build_after_s=0)
    recipe = recipe_of(tiny_htdemucs())
    assert recipe is not None
    if os.name != "posix":
        pytest.skip("process groups")
    builder._builder.start(Building("engine.separation.build_kernels", "key", json.dumps(recipe)))
    process = builder._builder._process
    if process is None:
        pytest.skip("no compiler here")
    time.sleep(0.2)
    builder.close()
    assert process.returncode is not None
    assert not (tmp_path / "key.so").exists()
