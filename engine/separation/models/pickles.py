"""Read pickled weights without running their code."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from fractions import Fraction
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.errors import FolderNotPrivate
from engine.process.private_files import check_code

NETWORKS = frozenset({"demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs"})
QUANTIZERS = frozenset({"diffq.diffq.DiffQuantizer", "diffq.uniform.UniformQuantizer"})

KNOWN_SHA256 = (  # files of demucs' old host; their names have only the first eight digits
    "0f06f20ed6ddc8058fa72ccc4845f3a88916eff7d007b623924193de217bbcf4",
    "34c22ccb381c6f9fdbf324f04e1e2fe21aaaf293f5ded163a162697ff9a02ddd",
    "3d5dd56b5bc986f136dff98655ded22b2b033f465ccec7a28640a6b15fd71ed6",
    "70f50cc947d08f32e6dd8e2b687d398fa5ef9e51d1bd7600e32205d1f44be6b9",
    "8726e21a993978c7ba086d3872e7608d7d5bfca646ca4aca459ffda844faa8b4",
    "fe6987756a7087d339bf63b19bb481b12cea02d3bc0de7583df7597210209649",
)


def full_checksum(checksum: str) -> str:
    """Return the whole SHA-256 for its first digits, if known."""
    return next((known for known in KNOWN_SHA256 if known.startswith(checksum)), checksum) if checksum else ""


def file_sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def has_checksum(path: Path, checksum: str) -> bool:
    """Return whether the SHA-256 of a file begins with `checksum`, or equals the known one that does."""
    expected = full_checksum(checksum)
    return bool(expected) and file_sha256(path).startswith(expected)


def read_package(path: Path, *, may_run_code: bool = False) -> dict[str, Any]:
    """Read the class, its arguments and the state of a demucs network; as `read_pickle`."""
    package = read_pickle(path, may_run_code=may_run_code)
    if not isinstance(package, dict) or not isinstance(package.get("klass"), type):
        raise pickle.UnpicklingError("it is not a package of demucs")
    return package


def read_pickle(path: Path, *, may_run_code: bool = False) -> Any:
    """Read a file of `torch.save`.

    Only tensors, plain values and the few classes that demucs' files need are created. `may_run_code`: a file that
    needs others is read too, if only its owner can have written it. Raises `UnpicklingError`, and torch's errors for a
    damaged file.
    """
    try:
        with torch.serialization.safe_globals(_allowed_classes()):
            return torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not may_run_code:
            raise
        try:
            check_code(path)
        except FolderNotPrivate as refusal:
            raise pickle.UnpicklingError(f"it can run code, and {refusal}") from error
        return torch.load(path, "cpu", weights_only=False)


def _allowed_classes() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        Fraction,  # the segment
        # numbers in the training metrics, as named in NumPy 1 and 2
        (_numpy_scalar(), "numpy.core.multiarray.scalar"),
        (_numpy_scalar(), "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
    ]
    for name in sorted(NETWORKS | QUANTIZERS):
        module, _, attribute = name.rpartition(".")
        try:
            allowed.append((getattr(import_module(module), attribute), name))
        except ImportError:  # diffq is an extra
            continue
    return allowed


def _numpy_scalar() -> Callable[..., Any]:
    """Return NumPy's constructor of pickled numbers, without importing its private module."""
    function: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
    return function
