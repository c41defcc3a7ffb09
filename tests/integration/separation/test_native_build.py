"""The build of the native library, and its ops without memory."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from engine.separation.build_native import compile_library
from engine.separation.native import ops as native_ops
from engine.separation.native.library import Builder, NativeLibrary
from engine.separation.native.ops import NativeOps
from tests.fixtures.large_ops import large_ops
from tests.fixtures.tiny_models import tiny_htdemucs

pytestmark = pytest.mark.timeout(300)  # compiling takes a minute where other processes compute
AT_NORMAL_PRIORITY = "import os; os.nice = lambda by: 0; from engine.separation.build_native import main; main()"
BUILD = [sys.executable, "-c", AT_NORMAL_PRIORITY]  # at the lowest priority it would wait for all other tests


def test_failed_compilation_leaves_only_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = tmp_path / "c++"
    refusing.write_text("#!/bin/sh\necho 'what is -mamx-tile?' >&2; exit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("CXX", str(refusing))
    folder = tmp_path / "kernels"
    folder.mkdir()
    command = [*BUILD, str(folder), "key"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as builder:
        assert builder.wait(90) != 0
    assert sorted(path.name for path in folder.iterdir()) == ["key.failed"]
    assert "what is -mamx-tile?" in (folder / "key.failed").read_text()


WITHOUT_MEMORY = """
import os, resource, sys, threading, torch
from pathlib import Path
from engine.separation.native.ops import NativeOps
from engine.separation.ops.torch_ops import TORCH
from tests.fixtures.large_ops import large_ops

torch.set_num_threads(1)
torch.set_grad_enabled(False)
ops = NativeOps(Path(sys.argv[1]))
makes = large_ops()
# pack the weights; the scratch memory is freed with the thread
loading = threading.Thread(target=lambda: [make(ops) for make in makes.values()])
loading.start()
loading.join()
for name, make in makes.items():
    expected = make(TORCH)
    make(TORCH)
    if child := os.fork():
        print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    ballast, size, refused = [], 1 << 26, 0
    while size >= 1 << 15:  # uses up the free memory of malloc
        try:
            ballast.append(bytearray(size))
        except MemoryError:
            size //= 2
    step = 1 << 19
    for _ in range(200):
        limit += step
        step += step // 8
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            found = make(ops)
        except MemoryError:
            refused += 1
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
        else:
            break
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    os._exit(0 if refused else 9)
"""


def test_ops_without_memory_raise_memory_error(native_library: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_MEMORY, str(native_library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ended = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert ended == dict.fromkeys(large_ops(), "0"), done.stderr[-2000:]


def test_every_source_is_in_the_package() -> None:
    settings = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["engine.separation.native"]
    folder = Path(native_ops.__file__).parent
    packed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert native_ops.SOURCES
    assert packed.issuperset(native_ops.SOURCES)


def test_compiler_keeps_its_temporary_files_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\necho "$TMPDIR" >>"$0.log"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    (tmp_path / "kernels").mkdir()
    compile_library(tmp_path / "kernels" / "library.so")
    assert set((tmp_path / "c++.log").read_text().splitlines()) == {str(tmp_path / "kernels")}


def test_library_is_built_on_this_machine(
    native_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler copies the library that the other tests use; the builder verifies and publishes it.

    How fast it is, `python -m bench` measures: beside other programs, a short measurement can go either way.
    """
    copying = tmp_path / "c++"
    copying.write_text(
        "#!/bin/sh\nfor out; do :; done\n"  # the output is the last argument
        f'case "$*" in *-shared*) cp {native_library} "$out";; *-c*) touch "$out";; esac\n'
    )
    copying.chmod(0o755)
    monkeypatch.setenv("CXX", str(copying))
    library = NativeLibrary(tmp_path / "kernels")
    any_speed = f"from engine.separation import build_native; build_native.check_faster = id; {AT_NORMAL_PRIORITY}"
    command = [sys.executable, "-c", any_speed, str(library.files.folder), library.files.key]
    library._builder = Builder(library.files, command)
    assert library.build_now() is None
    assert isinstance(library.ops_for(tiny_htdemucs(channels=32), 0.0), NativeOps)
    library.end_first_pass()
    assert sorted(path.suffix for path in library.files.folder.iterdir()) == [".log", ".sha256", ".so"]
