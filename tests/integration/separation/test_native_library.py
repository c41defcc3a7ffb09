"""When the native library is built and used, and failures of both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from demucs.hdemucs import HDemucs

from engine.separation.native import library as library_module
from engine.separation.native import ops as native_ops
from engine.separation.native.library import NativeLibrary
from engine.separation.network.forward import forward_of
from tests.fixtures.tiny_models import awake, tiny_htdemucs


@pytest.fixture(autouse=True)
def retry_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "_RETRY_AFTER_S", 0.0)


def publish(library: NativeLibrary, content: bytes) -> None:
    library.files.folder.mkdir(exist_ok=True)
    built = library.files.folder.with_name("built.so")
    built.write_bytes(content)
    library.files.publish(built)


def passes(library: NativeLibrary, count: int) -> None:
    network = awake(tiny_htdemucs(segment=1))
    forward, windows = forward_of(network, library), torch.randn(1, 2, 44100)
    expected = forward_of(network)(windows)
    for _ in range(count):
        torch.testing.assert_close(forward(windows), expected)


def test_missing_compiler_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level("INFO"):
        passes(NativeLibrary(tmp_path, build_after_s=0), 4)
    assert sum("no C++ compiler" in record.message for record in caplog.records) == 1
    assert list(tmp_path.iterdir()) == []


def test_little_work_starts_no_build(tmp_path: Path) -> None:
    passes(NativeLibrary(tmp_path / "kernels", build_after_s=600), 4)
    assert not (tmp_path / "kernels").exists()


def test_unloadable_library_is_rejected_with_its_reason(tmp_path: Path) -> None:
    library = NativeLibrary(tmp_path / "kernels", build_after_s=0)
    publish(library, b"not a library")
    passes(library, 4)
    (left,) = library.files.folder.iterdir()
    assert left.suffix == ".failed"
    assert "too short" in left.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_library_of_another_user_is_not_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    planted = tmp_path / f"{native_ops.library_key()}.so"
    planted.write_bytes(b"not a library")
    os.chown(planted, 65534, 65534)
    with caplog.at_level("INFO"):
        passes(NativeLibrary(tmp_path, build_after_s=0), 4)
    assert sum("belongs to another user" in record.message for record in caplog.records) == 1
    assert list(tmp_path.iterdir()) == [planted], "it was neither loaded nor replaced"


def test_library_is_not_built_where_others_can_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o777)
    with caplog.at_level("INFO"):
        passes(NativeLibrary(tmp_path / "kernels", build_after_s=0), 4)
    assert sum("Other users can change" in record.message for record in caplog.records) <= 1
    assert not list((tmp_path / "kernels").glob("*"))


def test_half_precision_network_uses_torch(tmp_path: Path) -> None:
    library = NativeLibrary(tmp_path, build_after_s=0)
    network = awake(tiny_htdemucs(segment=1)).half()
    assert forward_of(network, library)._switch is None  # type: ignore[attr-defined]


def test_multi_band_network_runs(tmp_path: Path) -> None:
    build = {"hybrid": True, "cac": True, "multi_freqs": [0.5], "multi_freqs_depth": 1, "channels": 4, "depth": 4}
    network: Any = awake(HDemucs(["one"], nfft=1024, **build))
    windows = torch.randn(1, 2, 44100)
    library = NativeLibrary(tmp_path, build_after_s=float("inf"))
    torch.testing.assert_close(forward_of(network, library)(windows), network(windows))


def test_build_ends_at_close(tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("process groups")
    library = NativeLibrary(tmp_path)
    library._builder.start()
    process = library._builder._process
    if process is None:
        pytest.skip("no compiler here")
    library.close()
    assert process.returncode is not None
    assert not library.files.library.exists()
