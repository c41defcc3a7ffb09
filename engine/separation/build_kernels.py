"""`python -m engine.separation.build_kernels FOLDER KEY`, the recipe as one line of JSON on stdin: compile a core,
check it, and leave it in the folder. Started by `engine.separation.builder`."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from demucs.htdemucs import HTDemucs
from demucs.transformer import CrossTransformerEncoder
from torch import Tensor

from engine.separation import builder
from engine.separation.compiled import CompiledCore
from engine.separation.forward import TransformerCore, forward_of
from engine.separation.kernels import decoded

SETTINGS = {
    "aot_inductor.package_constants_in_so": False,  # weights are given at load, so architectures share a file
    "always_keep_tensor_constants": True,  # also the small ones, which would be compiled in
}


class FixedCore(TransformerCore):
    """A core whose positions are buffers, so that they can be told from the weights."""

    def _grid_positions(self, transformer: CrossTransformerEncoder, channels: int, *sizes: Any) -> Tensor:
        return self.get_buffer("grid")

    def _line_positions(self, transformer: CrossTransformerEncoder, channels: int, *sizes: Any) -> Tensor:
        return self.get_buffer("line")


def build(folder: Path, key: str, recipe: dict[str, Any]) -> None:
    """Raises `RuntimeError` when the result is not faithful, or not faster."""
    if recipe["klass"] != "demucs.htdemucs.HTDemucs":
        raise RuntimeError(f"{recipe['klass']} is not compiled")
    member: Any = HTDemucs(*recipe["args"], **recipe["kwargs"]).eval()
    member.segment = recipe["segment"]
    windows = torch.randn(1, member.audio_channels, int(member.segment * member.samplerate))
    forward: Any = forward_of(member)
    forward(windows)
    constants = forward.core.constants()
    core = FixedCore(member)
    for name, value in constants.items():
        core.register_buffer(name, value)
    spectrum = forward.analyse(windows)
    library = folder / f"{key}.{os.getpid()}.building.so"
    try:
        with torch.no_grad():
            exported = torch.export.export(core.eval(), (spectrum, windows))
            package = torch._inductor.aoti_compile_and_package(
                exported, package_path=str(library.with_suffix(".pt2")), inductor_configs=SETTINGS
            )
            take_library(Path(package), library)
            compiled = CompiledCore(library, member, constants)
            for expected, found in zip(core(spectrum, windows), compiled(spectrum, windows), strict=True):
                builder.check_faithful("the compiled core is", expected, found)
            builder.check_faster(
                "the compiled core is", partial(core, spectrum, windows), partial(compiled, spectrum, windows)
            )
    except BaseException:
        library.unlink(missing_ok=True)
        raise
    library.replace(folder / f"{key}.so")


def take_library(package: Path, library: Path) -> None:
    """The one shared library of a package, in place of the package."""
    with zipfile.ZipFile(package) as parts:
        (name,) = (name for name in parts.namelist() if name.endswith(".so"))
        library.write_bytes(parts.read(name))
    package.unlink()


def _build(folder: Path, key: str, line: str) -> None:
    scratch = folder / f"{key}.tmp"
    os.environ.update(TORCHINDUCTOR_CACHE_DIR=str(scratch), TORCHINDUCTOR_COMPILE_THREADS="1")
    try:
        build(folder, key, json.loads(line, object_hook=decoded))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    builder.run(_build)
