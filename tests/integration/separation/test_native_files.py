"""A compiled library that is damaged, crashes, or is built by two processes at once."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from engine.separation import build_native
from engine.separation.native import ops as native_ops
from engine.separation.native.files import CrashedBefore, FirstUse, NativeFiles
from engine.separation.native.library import Builder, NativeLibrary, compiler, compiler_version
from engine.separation.network.forward import forward_of
from engine.separation.ops.torch_ops import TORCH, TorchOps
from tests.fixtures.tiny_models import awake, tiny_htdemucs

NEVER = float("inf")
BEGIN = "int stemify_begin(void) { return 0; }\n"
FUNCTIONS = ("convolve", "convolve_pairs", "attend", "feed_forward", "add_dconv")
FILLING = f"const char filling[200000] = {{{'7,' * 200_000}}};\n"


def compiled(folder: Path, source: str) -> Path:
    """Compile a small library."""
    if shutil.which("gcc") is None:
        pytest.skip("no compiler here")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.c").write_text(source)
    command = ["gcc", "-shared", "-fPIC", "-w", "-o", str(folder / "built.so"), str(folder / "source.c")]
    subprocess.run(command, check=True)
    return folder / "built.so"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a loadable library."""
    return compiled(tmp_path_factory.mktemp("library"), BEGIN + FILLING).read_bytes()


@pytest.fixture
def files(tmp_path: Path) -> NativeFiles:
    folder = tmp_path / "kernels"
    folder.mkdir()
    return NativeFiles(folder, native_ops.library_key())


def publish(files: NativeFiles, content: bytes) -> None:
    built = files.folder / "built.so"
    built.write_bytes(content)
    files.publish(built)


def damaged(content: bytes, kind: str, at: float) -> bytes:
    place = int(at * (len(content) - (65536 if kind == "zeroed" else 1)))
    if kind == "truncated":
        return content[:place]
    if kind == "zeroed":
        return content[:place] + bytes(len(content[place : place + 65536])) + content[place + 65536 :]
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("kind", ["truncated", "zeroed", "flipped"])
@pytest.mark.parametrize("at", [0, 0.001, 0.1, 0.3, 0.6, 0.9, 1])
def test_damaged_library_leaves_eager_mode_and_a_log_line(
    files: NativeFiles, whole: bytes, kind: str, at: float, caplog: pytest.LogCaptureFixture
) -> None:
    publish(files, whole)
    files.library.write_bytes(damaged(whole, kind, at))
    with caplog.at_level(logging.INFO):
        library = NativeLibrary(files.folder, build_after_s=0.0)
        for _ in range(2):
            assert library.ops_for(tiny_htdemucs(), 60.0) is None
    assert [record.message for record in caplog.records if "checksum" in record.message] != []
    assert sorted(path.suffix for path in files.folder.iterdir()) == [".failed"]
    assert "checksum does not match" in (files.failure(compiler_version()) or "")


def test_library_without_checksum_is_rejected(files: NativeFiles, whole: bytes) -> None:
    files.library.write_bytes(whole)
    assert NativeLibrary(files.folder, build_after_s=NEVER).ops_for(tiny_htdemucs(), 0.0) is None
    assert not files.library.exists()


def test_library_and_checksum_are_synced_before_the_rename(
    files: NativeFiles, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = list[tuple[str, bool]](), os.fsync

    def note(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").readlink().name, files.library.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    publish(files, whole)
    assert synced == [("built.so", False), ("built.sha256", False), ("kernels", True)]


CRASHES = [
    (crash, when)
    for crash in (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)
    for when in ("in a pass", "while it is loaded")
]
FIRST_PASSES = """
import os, sys
from pathlib import Path
import torch
from engine.separation.native.library import NativeLibrary
from engine.separation.network.forward import forward_of
from tests.fixtures.tiny_models import awake, tiny_htdemucs
network, windows = awake(tiny_htdemucs(segment=1)), torch.zeros(1, 2, 44100)
for folder in sys.argv[1:]:
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    forward_of(network, NativeLibrary(Path(folder), build_after_s=float("inf")))(windows)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[signal.Signals, str], tuple[NativeFiles, int]]:
    """Run a first pass with every library that crashes; return its folder and the exit code of its process.

    One process imports torch, which takes seconds, and forks the others.
    """
    all_files = []
    for crash, when in CRASHES:
        folder = tmp_path_factory.mktemp("crash")
        dies = f"{{ signal({crash:d}, SIG_DFL); raise({crash:d}); }}\n"
        functions = "".join(f"int stemify_{name}(void *task) {dies}" for name in FUNCTIONS)
        early = f"__attribute__((constructor)) void load(void) {dies}" if when == "while it is loaded" else ""
        files = NativeFiles(folder / "kernels", native_ops.library_key())
        files.folder.mkdir()
        publish(files, compiled(folder, f"#include <signal.h>\n{BEGIN}{functions}{early}").read_bytes())
        all_files.append(files)
    command = [sys.executable, "-c", FIRST_PASSES, *(str(files.folder) for files in all_files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(CRASHES, zip(all_files, map(int, done.stdout.split()), strict=True), strict=True))


@pytest.mark.parametrize(("crash", "when"), CRASHES)
def test_crash_in_first_pass_costs_one_process(
    crashed: dict[tuple[signal.Signals, str], tuple[NativeFiles, int]],
    crash: signal.Signals,
    when: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files, exit_code = crashed[crash, when]
    assert exit_code == -crash
    network, windows = awake(tiny_htdemucs(segment=1)), torch.randn(1, 2, 44100)
    with caplog.at_level(logging.INFO):
        found = forward_of(network, NativeLibrary(files.folder, build_after_s=NEVER))(windows)
    torch.testing.assert_close(found, forward_of(network)(windows))
    assert sum("ended in its first pass" in record.message for record in caplog.records) == 1
    assert sorted(path.suffix for path in files.folder.iterdir()) == [".failed"]


def test_marker_of_running_process_is_not_a_crash(files: NativeFiles) -> None:
    one, other = FirstUse(files), FirstUse(files)
    assert one.begin()
    assert one.begin()
    assert not other.begin()
    one.end()
    assert not other.begin()
    one.end()
    assert other.begin()
    other.close()
    assert list(files.folder.iterdir()) == []


def test_marker_of_ended_process_is_a_crash_once(files: NativeFiles) -> None:
    marker = files.folder / f"{files.key}.trying"
    marker.touch()
    with pytest.raises(CrashedBefore):
        FirstUse(files).begin()
    assert not marker.exists()
    assert FirstUse(files).begin()


def test_marker_is_removed_after_a_pass_and_at_close(files: NativeFiles, whole: bytes) -> None:
    publish(files, whole)
    marker, library = files.folder / f"{files.key}.trying", NativeLibrary(files.folder, build_after_s=NEVER)
    assert library.ops_for(tiny_htdemucs(), 0.0) is not None
    assert marker.exists()
    library.end_first_pass()
    assert not marker.exists()
    assert library.ops_for(tiny_htdemucs(), 0.0) is not None
    library.close()
    assert not marker.exists()


@pytest.mark.parametrize("away_s", [25 * 3600, -25 * 3600])
def test_failure_expires_after_a_day(files: NativeFiles, away_s: float) -> None:
    files.record_failure("not faster", compiler_version())
    failed = files.folder / f"{files.key}.failed"
    assert compiler_version() in failed.read_text()
    assert files.failure(compiler_version()) is not None
    os.utime(failed, (time.time() - away_s,) * 2)
    assert files.failure(compiler_version()) is None


def test_failure_of_another_compiler_is_ignored(files: NativeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    files.record_failure("what is -mamx-tile?", compiler_version())
    monkeypatch.setenv("CXX", "another-compiler")
    assert files.failure(compiler_version()) is None


def test_concurrent_builds_build_once(files: NativeFiles, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most, builds = list[Path](), list[int](), list[Path]()

    def compile_library(library: Path) -> None:
        under_way.append(library)
        builds.append(library)
        most.append(len(under_way))
        time.sleep(0.05)  # lets the other build start
        library.write_bytes(whole)
        under_way.remove(library)

    monkeypatch.setattr(build_native, "compile_library", compile_library)
    for check in ("check_faithful", "check_faster"):
        monkeypatch.setattr(build_native, check, lambda ops: None)
    threads = [threading.Thread(target=build_native.build, args=(files,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(most), len(builds)) == (1, 1)
    files.check()
    assert sorted(path.suffix for path in files.folder.iterdir()) == [".sha256", ".so"]


@pytest.mark.parametrize(("native_s", "refused"), [([9, 3, 3, 3, 1], False), ([9, *[3] * 20], True)])
def test_library_slower_in_every_round_is_refused(
    native_s: list[float], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call of each warms up; torch takes 2 s then."""
    clock, torch_s, native = [0.0], itertools.repeat(2.0), iter(native_s)

    def run(spectrum: object, windows: object, by: object) -> None:
        clock[0] += next(torch_s if by is TORCH else native)

    monkeypatch.setattr(build_native, "TransformerCore", lambda network: run)
    monkeypatch.setattr(time, "process_time", lambda: clock[0])
    with pytest.raises(RuntimeError, match="not faster") if refused else contextlib.nullcontext():
        build_native.check_faster(TorchOps())


def test_builder_removes_old_leftovers_of_its_library_only(files: NativeFiles) -> None:
    old, young, other = (
        files.folder / name for name in (f"{files.key}.a.building", f"{files.key}.b.building", "x.building")
    )
    for folder in (old, young, other):
        folder.mkdir()
        (folder / "attention.o").touch()
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    build_native.remove_leftovers(files)
    assert sorted(files.folder.iterdir()) == sorted([young, other])


def test_build_ended_by_a_signal_is_recorded(files: NativeFiles) -> None:
    killed = Builder(files, ["sh", "-c", "kill -9 $$"])
    killed.start()
    killed.wait()
    killed.start()
    assert "signal 9" in (files.failure(compiler_version()) or "")


def test_folder_that_cannot_be_written_leaves_eager_mode(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.INFO):
        assert NativeLibrary(tmp_path / "file", build_after_s=0.0).ops_for(tiny_htdemucs(), 60.0) is None
    assert [record for record in caplog.records if "cannot be built" in record.message]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("ccache g++ -m64", ["ccache", "g++", "-m64"]),
        ("", ["g++"]),
        ("'/opt/my gcc/g++'", ["/opt/my gcc/g++"]),
        ("'", []),
    ],
)
def test_compiler_may_have_arguments(named: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", named)
    assert compiler() == expected
    assert isinstance(compiler_version(), str)


def test_compiler_without_amx_builds_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "arguments"
    fake = tmp_path / "g++"
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\ncase "$*" in *-mamx-tile*) echo "what is amx?" >&2; exit 1;; esac\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", f"env {fake}")
    monkeypatch.setattr(native_ops, "has_tiles", lambda: True)
    build_native.compile_library(tmp_path / "built.so")
    lines = log.read_text().splitlines()
    assert ["-mamx-tile" in line for line in lines] == [True] + [False] * (len(lines) - 1)
    assert all("-march=native" in line for line in lines[:-1])


def test_library_without_amx_is_not_used_on_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_ops, "has_tiles", lambda: True)
    library = compiled(tmp_path, BEGIN + "int stemify_has_tiles(void) { return 0; }\n")
    assert native_ops.on_tiles(library) is None
