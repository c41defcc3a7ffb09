"""Compile and verify the native library: `python -m engine.separation.build_native FOLDER KEY`.

Started by `engine.separation.native.library.Builder`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from demucs.demucs import DConv
from demucs.htdemucs import HTDemucs
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.separation.native import ops as native_ops
from engine.separation.native.files import NativeFiles
from engine.separation.native.library import compiler, compiler_version
from engine.separation.native.ops import NativeOps
from engine.separation.network.forward import TransformerCore
from engine.separation.ops.torch_ops import TORCH, TorchOps

log = logging.getLogger(__name__)

_FAITHFUL_DB = 100.0  # stricter than the 90 dB that separation guarantees
_SPEED_ROUNDS = 15  # only where the first do not decide: other programs slow single rounds down
_LEFTOVER = ".building"
_LEFTOVER_AFTER_S = 3600.0  # without file locks, a younger folder may belong to a running build
_OpCall = Callable[[TorchOps], Tensor]


def build(files: NativeFiles) -> None:
    """Build and publish the library. Raises `RuntimeError` if it is not faithful, or not faster than torch."""
    with _build_lock(files):
        remove_leftovers(files)
        if files.library.is_file():
            return  # another process built it first
        with tempfile.TemporaryDirectory(prefix=f"{files.key}.", suffix=_LEFTOVER, dir=files.folder) as folder:
            library = Path(folder) / files.library.name
            compile_library(library)
            vectors, tiles = NativeOps(library), native_ops.on_tiles(library)
            check_faithful(vectors)
            if tiles is not None:
                check_faithful(tiles)
            check_faster(tiles or vectors)
            files.publish(library)


@contextlib.contextmanager
def _build_lock(files: NativeFiles) -> Iterator[None]:
    """Wait for other builds of the same library, including those of other containers.

    The lock's file is removed afterwards. Where files cannot be locked, unique folder names keep two builds apart.
    """
    path = files.folder / f"{files.key}.lock"
    while True:
        with path.open("wb") as lock:
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_same_file(lock.fileno(), path):
                continue  # the build that held it has removed it
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def remove_leftovers(files: NativeFiles) -> None:
    """Remove folders of killed builds of the same library. Called with the lock held."""
    for path in files.folder.glob(f"{files.key}.*{_LEFTOVER}"):
        if time.time() - path.stat().st_mtime > _LEFTOVER_AFTER_S:
            shutil.rmtree(path, ignore_errors=True)


def compile_library(library: Path, flags: Sequence[str] | None = None) -> None:
    """Compile with `flags`, by default those of this processor. Raises `RuntimeError` with the compiler's output."""
    if flags is not None:
        return _compile(library, flags)
    try:
        return _compile(library, native_ops.flags())
    except RuntimeError as error:
        if not native_ops.has_tiles():
            raise
        log.info("the compiler does not support AMX, so vectors are used: %s", error)
        return _compile(library, native_ops.VECTORS)


def _compile(library: Path, flags: Sequence[str]) -> None:
    sources = [str(source) for source in native_ops.SOURCES if source.suffix == ".cpp"]
    objects = [library.with_name(f"{library.stem}.{Path(source).stem}.o") for source in sources]
    common = [
        "-std=c++17",
        "-O3",
        "-fno-math-errno",
        "-fno-strict-aliasing",
        "-fno-exceptions",
        "-fopenmp",
        "-fPIC",
        "-w",
    ]
    try:
        for source, compiled in zip(sources, objects, strict=True):
            _run(*common, *flags, "-c", source, "-o", str(compiled), folder=library.parent)
        # without OpenMP's library: torch brings one, and a second would double the threads
        _run("-shared", *map(str, objects), "-o", str(library), folder=library.parent)
    finally:
        for compiled in objects:
            compiled.unlink(missing_ok=True)


def _run(*arguments: str, folder: Path) -> None:
    # a compiler that is killed leaves its temporary files, which are removed with the folder
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run([*compiler(), *arguments], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def check_faithful(ops: TorchOps) -> None:
    """Raise `RuntimeError` if any op differs too much from torch's."""
    for call in op_calls():
        expected, found = call(TORCH).double(), call(ops).double()
        error = float((expected - found).square().sum())
        snr_db = 10 * math.log10(float(expected.square().sum()) / max(error, 1e-300))
        if not snr_db > _FAITHFUL_DB:
            raise RuntimeError(f"an op is only within {snr_db:.0f} dB of torch's")


def check_faster(ops: TorchOps) -> None:
    """Raise `RuntimeError` unless layers like htdemucs' take less CPU time for a second of audio."""
    network: Any = HTDemucs(["one"], channels=48, bottom_channels=512, t_layers=2, dconv_mode=3, segment=1).eval()
    core, samples = TransformerCore(network), network.samplerate
    spectrum = torch.randn(1, 4, network.nfft // 2, -(-samples // network.hop_length))
    windows = torch.randn(1, 2, samples)

    def cpu_s(by: TorchOps) -> float:
        began = time.process_time()
        with torch.no_grad():
            core(spectrum.clone(), windows, by)
        return time.process_time() - began

    for by in (TORCH, ops):
        cpu_s(by)  # warm up: packs the weights
    eager_s = native_s = math.inf
    for completed in range(1, _SPEED_ROUNDS + 1):
        eager_s, native_s = min(eager_s, cpu_s(TORCH)), min(native_s, cpu_s(ops))
        if completed >= 3 and native_s <= eager_s:
            break
    log.info("CPU seconds: torch %.3f, native %.3f", eager_s, native_s)
    if native_s > eager_s:
        raise RuntimeError(f"a network is not faster: {native_s:.3f} CPU s, torch {eager_s:.3f}")


def op_calls() -> list[_OpCall]:
    """Return one call for every op."""
    torch.manual_seed(0)
    layer: Any = nn.TransformerEncoderLayer(256, 4, 1024, activation=F.gelu, batch_first=True)
    conv, strided = nn.Conv2d(48, 96, 3, padding=1), nn.Conv1d(20, 40, 8, 4, padding=2)
    spread, over_frames = nn.ConvTranspose2d(48, 20, (8, 1), (4, 1)), nn.ConvTranspose1d(24, 8, 8, 4)
    (branch,) = DConv(48, depth=1, init=1).layers
    x, image, line = torch.randn(1, 900, 256), torch.randn(1, 9, 300, 48), torch.randn(1, 1, 999, 20)
    rows, mixing = torch.randn(3, 300, 48), nn.Conv1d(900, 40, 1)

    def add_dconv(ops: TorchOps, rows: Tensor) -> Tensor:
        out = rows.clone()
        ops.add_dconv(branch, out)
        return out

    same = nn.Identity()
    calls: list[_OpCall] = [
        lambda by: by.add_feed_forward(x, same, layer, x),
        lambda by: by.add_attention(x, same, layer.self_attn, x, x[:, :333]),
        lambda by: by.gated(conv, image),
        lambda by: by.convolved(strided, line, activate=True),
        lambda by: by.spread(spread, image, 2, activate=True),
        lambda by: by.spread(over_frames, torch.cat([line, line[..., :4]], -1), 2, activate=False),
        lambda by: by.mixed(mixing, x),
        lambda by: add_dconv(by, rows),
        lambda by: add_dconv(by, rows.view(1, -1, 48)),
    ]
    return [_without_gradients(call) for call in calls]


def _without_gradients(call: _OpCall) -> _OpCall:
    def run(ops: TorchOps) -> Tensor:
        with torch.no_grad():
            return call(ops)

    return run


def main() -> None:
    """Build, or stop when stdin ends; record a failure."""
    files = NativeFiles(Path(sys.argv[1]), sys.argv[2])
    logging.basicConfig(level=logging.INFO)
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    os.nice(19)
    os.umask(0o077)
    try:
        build(files)
    except Exception as error:
        files.record_failure(str(error), compiler_version())
        raise


def _exit_with_stdin() -> None:
    while os.read(0, 64):
        pass
    os.killpg(0, signal.SIGKILL)  # includes the running compilers


if __name__ == "__main__":
    main()
