"""A core that AOTInductor compiled, by its C interface (`torch/csrc/inductor/aoti_runtime/interface.h`).

torch's own loader keeps Python's lock for a whole pass, which is seconds: no heartbeat, no encoder, and no second
window would move meanwhile. ctypes gives the lock back.
"""

from __future__ import annotations

import ctypes
import weakref
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.separation.device import WINDOWS_AT_ONCE

_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class _Constant(ctypes.Structure):
    """`AOTInductorConstantMapEntry`."""

    _fields_ = (("name", ctypes.c_char_p), ("handle", ctypes.c_void_p))


class CompiledCore:
    """For one window at a time, of two threads at once if need be."""

    def __init__(self, library: Path, member: nn.Module, constants: dict[str, Tensor]) -> None:
        """`constants`: what the core needs beside the weights. Raises `OSError`, `RuntimeError` and `KeyError` for a
        library that is none, or of another network."""
        self._library = ctypes.CDLL(str(library))
        self._container = ctypes.c_void_p()
        self._call("CreateWithDevice", ctypes.byref(self._container), _size(WINDOWS_AT_ONCE), b"cpu", None)
        weakref.finalize(self, self._library.AOTInductorModelContainerDelete, self._container)
        have = {f"member.{name}": value for name, value in member.state_dict().items()} | constants
        names = self._names()
        tensors = [have[name] for name in names.values()]  # used where they lie
        handles = _handles(tensors)
        weakref.finalize(self, _tensors, handles)
        pairs = (_Constant * len(names))(*map(_Constant, names, handles))
        self._call("UpdateUserManagedConstantBufferPairs", self._container, pairs, _size(len(pairs)), False, True)

    def __call__(self, spectrum: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
        """As `HybridCore`."""
        pairs = [self._run(spectrum[i : i + 1].contiguous(), mix[i : i + 1].contiguous()) for i in range(len(mix))]
        if len(pairs) == 1:
            return pairs[0]
        return torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])

    def _run(self, spectrum: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
        given = (ctypes.c_void_p * 2)(*_handles([spectrum, mix]))  # the library frees them
        made = (ctypes.c_void_p * 2)()
        self._call("Run", self._container, given, _size(2), made, _size(2), None, None)
        parts, waves = _tensors(list(made))
        return parts, waves

    def _names(self) -> dict[bytes, str]:
        """The constants' names in the library, and in the network."""
        count = ctypes.c_size_t()
        self._call("GetNumConstants", self._container, ctypes.byref(count))
        found: dict[bytes, str] = {}
        for index in range(count.value):
            inner, outer = ctypes.c_char_p(), ctypes.c_char_p()
            self._call("GetConstantName", self._container, _size(index), ctypes.byref(inner))
            self._call("GetConstantOriginalFQN", self._container, _size(index), ctypes.byref(outer))
            found[inner.value or b""] = (outer.value or b"").decode()
        return found

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, f"AOTInductorModelContainer{name}")(*arguments):
            raise RuntimeError(f"the compiled core failed in {name}")


_size = ctypes.c_size_t


def _handles(tensors: list[Tensor]) -> list[int]:
    """Addresses of new handles (`AtenTensorHandle`)."""
    capsules = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(tensors)
    return [_python.PyCapsule_GetPointer(capsule, None) for capsule in capsules]


def _tensors(handles: list[int]) -> list[Tensor]:
    """The tensors of handles, which are freed."""
    capsules = [_python.PyCapsule_New(handle, None, None) for handle in handles]
    return torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules)
