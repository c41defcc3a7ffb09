"""`python -m engine.separation.build_amx FOLDER KEY`: compile the products on AMX, check them, and leave their library
in the folder. Started by `engine.separation.builder`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from demucs.demucs import DConv
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.separation import amx, builder
from engine.separation.products import TORCH, Products

_Try = Callable[[Products], Tensor]


def build(folder: Path, key: str, _: str = "") -> None:
    """Raises `RuntimeError` when the result is not faithful, or not faster."""
    library = folder / f"{key}.{os.getpid()}.building.so"
    compile_library(library)
    try:
        products = amx.AmxProducts(library)
        check(products)
        (wide, *_rest) = tries()
        builder.check_faster("the widest product on AMX is", partial(wide, TORCH), partial(wide, products))
    except BaseException:
        library.unlink()
        raise
    library.replace(folder / f"{key}.so")


def compile_library(library: Path, flags: Sequence[str] = amx.FLAGS) -> None:
    """Raises `RuntimeError` with what the compiler says."""
    sources = [str(source) for source in amx.SOURCES if source.suffix == ".cpp"]
    objects = [library.with_name(f"{library.stem}.{Path(source).stem}.o") for source in sources]
    common = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-strict-aliasing", "-fopenmp", "-fPIC", "-w"]
    try:
        for source, compiled in zip(sources, objects, strict=True):
            _run(*common, *flags, "-c", source, "-o", str(compiled))
        # not with OpenMP's own library: torch has brought one, and two of them would have twice the threads
        _run("-shared", *map(str, objects), "-o", str(library))
    finally:
        for compiled in objects:
            compiled.unlink(missing_ok=True)


def _run(*arguments: str) -> None:
    done = subprocess.run([builder.compiler(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def check(products: Products) -> None:
    """Raises `RuntimeError` if any kind of product differs from torch's."""
    for attempt in tries():
        builder.check_faithful("a product on AMX is", attempt(TORCH), attempt(products))


def tries() -> list[_Try]:
    """One product of every kind, the widest first."""
    torch.manual_seed(0)
    layer: Any = nn.TransformerEncoderLayer(256, 4, 1024, activation=F.gelu, batch_first=True)
    conv, strided = nn.Conv2d(48, 96, 3, padding=1), nn.Conv1d(20, 40, 8, 4, padding=2)
    spread, over_frames = nn.ConvTranspose2d(48, 20, (8, 1), (4, 1)), nn.ConvTranspose1d(24, 8, 8, 4)
    (branch,) = DConv(48, depth=1, init=1).layers
    x, image, line = torch.randn(1, 900, 256), torch.randn(1, 9, 300, 48), torch.randn(1, 1, 999, 20)
    rows, mixing = torch.randn(3, 300, 48), nn.Conv1d(900, 40, 1)

    def add_branch(products: Products, rows: Tensor) -> Tensor:
        out = rows.clone()
        products.add_branch(branch, out)
        return out

    same = nn.Identity()
    attempts: list[_Try] = [
        lambda by: by.add_feed_forward(x, same, layer, x),
        lambda by: by.add_attention(x, same, layer.self_attn, x, x[:, :333]),
        lambda by: by.gated(conv, image),
        lambda by: by.convolved(strided, line, activate=True),
        lambda by: by.spread(spread, image, 2, activate=True),
        lambda by: by.spread(over_frames, torch.cat([line, line[..., :4]], -1), 2, activate=False),
        lambda by: by.mixed(mixing, x),
        lambda by: add_branch(by, rows),
        lambda by: add_branch(by, rows.view(1, -1, 48)),
    ]
    return [_without_gradients(attempt) for attempt in attempts]


def _without_gradients(attempt: _Try) -> _Try:
    def tried(products: Products) -> Tensor:
        with torch.no_grad():
            return attempt(products)

    return tried


if __name__ == "__main__":
    builder.run(build)
