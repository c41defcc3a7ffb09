"""Ops in C++ (`src/`), compiled for the processor that runs them.

They use its vector units, or AMX where present. On AMX, convolutions and attention scores split numbers into three
bfloat16, as exact as single precision. The rest of the transformer uses two: its results are added to larger values.
Weights are packed once and freed with their layer.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.process.private_files import check_code
from engine.separation.native import structs
from engine.separation.native.packing import (
    PANEL,
    TILE,
    PackedDConv,
    PackedMatrix,
    pack,
    pack_convolution,
    pack_dconv,
    spread_matrix,
)
from engine.separation.ops.torch_ops import TorchOps, in_two_dimensions

SOURCES = sorted(path for path in Path(__file__).with_name("src").glob("*") if path.suffix in {".cpp", ".h"})
VECTORS = ("-march=native",)
_TILE_FLAGS = ("-mavx512bw", "-mavx512vl", "-mavx512bf16", "-mamx-tile", "-mamx-bf16")
T = TypeVar("T")
_UNCACHED_VALUES = 1 << 19  # larger results are written past the caches
_MIN_CHANNELS = 32  # of the first layer; with 16 (`mini`) most of a tile is empty
_MAX_HEAD_CHANNELS = 128
_MAX_HIDDEN = 128  # channels of a DConv branch


def has_tiles() -> bool:
    """Return whether torch detects AMX on this processor."""
    return bool(torch.cpu._is_amx_tile_supported() and torch.cpu.get_capabilities().get("avx512_bf16"))


def suits(member: Any) -> bool:
    """Return whether the ops support a network's weights."""
    return all(weight.dtype is torch.float32 for weight in member.parameters())


def fills_tiles(member: Any) -> bool:
    """Return whether a network is wide enough to benefit from AMX."""
    return bool(member.channels >= _MIN_CHANNELS)


def flags() -> tuple[str, ...]:
    """Return the compiler flags for this processor."""
    return (*VECTORS, *_TILE_FLAGS) if has_tiles() else VECTORS


def library_key() -> str:
    """Return a name for the library that depends on processor, torch version and sources."""
    parts = [torch.__version__, _cpu_flags(), *flags(), *(source.read_text() for source in SOURCES)]
    return "native-" + sha256("\n".join(parts).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class _Taps:
    """Taps of a convolution over bins or frames."""

    taps: int = 1
    stride: int = 1
    padding: int = 0

    def output_size(self, size: int) -> int:
        return (size + 2 * self.padding - self.taps) // self.stride + 1


_ONE_TAP = _Taps()
_NEIGHBOURS = _Taps(2, 1, 1)
_NEIGHBOURS_AND_ITSELF = _Taps(3, 1, 1)


class NativeOps(TorchOps):
    """Ops of a compiled library; unsupported layers are left to torch. Thread-safe."""

    def __init__(self, library: Path, *, tiles: bool = False) -> None:
        """`tiles`: use AMX.

        Raises `FolderNotPrivate` for a file that another user can change, `OSError` and `AttributeError` for an invalid
        library, `RuntimeError` where the system forbids AMX.
        """
        check_code(library)
        self._library = ctypes.CDLL(str(library))
        self._exact, self._rough = (3, 2) if tiles else (1, 1)  # bfloat16 parts of a number
        is_refused = self._library.stemify_begin()
        if tiles and is_refused:
            raise RuntimeError("this system does not allow the use of AMX")
        self._packs: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def convolved(self, conv: Any, x: Tensor, *, activate: bool = False) -> Tensor:
        if not _is_common(conv):
            return super().convolved(conv, x, activate=activate)
        return self._convolve(conv, x, structs.GELU if activate else structs.PLAIN)

    def gated(self, conv: Any, x: Tensor) -> Tensor:
        return self._convolve(conv, x, structs.GLU) if _is_common(conv) else super().gated(conv, x)

    def mixed(self, conv: Any, x: Tensor) -> Tensor:
        return self._convolve(conv, x.transpose(1, 2)[:, None], structs.PLAIN)[:, 0].transpose(1, 2)

    def spread(self, conv: Any, x: Tensor, pad: int, *, activate: bool) -> Tensor:
        weight, strides, _ = in_two_dimensions(conv)
        over_bins = conv.weight.dim() == 4
        step, taps = max(strides), max(weight.shape[2:])
        if taps != 2 * step or min(weight.shape[2:]) > 1 or conv.bias is None or not _is_common(conv):
            return super().spread(conv, x, pad, activate=activate)
        batch, bins, frames, _ = x.shape
        width = weight.shape[1]
        packed = self._packed(
            conv,
            "spread",
            lambda: pack(spread_matrix(weight.flatten(2), step), conv.bias.repeat(step), width, parts=self._exact),
        )
        ending = structs.GELU if activate else structs.PLAIN
        # each pair of neighbours, and each end, gives `step` positions of the result
        if over_bins:
            out = x.new_empty(batch, step * (bins + 1), frames, width)
            where = structs.Where((step * frames * width, width), apart=frames * width)
            self._run_each(packed, x, out, ending, _NEIGHBOURS, _ONE_TAP, where)
            return out[:, pad : out.shape[1] - pad]
        out = x.new_empty(batch, 1, step * (frames + 1), width)
        self._run_each(packed, x, out, ending, _ONE_TAP, _NEIGHBOURS, structs.Where((0, step * width), apart=width))
        return out[:, :, pad : out.shape[2] - pad]

    def add_dconv(self, branch: Any, x: Tensor) -> None:
        narrow, norm, act, _, wide_norm, _, _ = branch
        hidden = narrow.out_channels
        if type(act) is not nn.GELU or act.approximate != "none" or hidden > _MAX_HIDDEN:
            return super().add_dconv(branch, x)
        assert x.is_contiguous()  # overwritten in place
        packed: PackedDConv = self._packed(branch, "dconv", lambda: pack_dconv(branch, self._exact))
        task = structs.DConv(
            x.data_ptr(), *x.shape, narrow.kernel_size[0], narrow.dilation[0], hidden, self._exact,
            packed.narrow.weight.data_ptr(), *(part.data_ptr() for part in packed.hidden), norm.eps, wide_norm.eps,
            packed.wide.weight.data_ptr(), *(part.data_ptr() for part in packed.moments),
        )  # fmt: skip
        _call(self._library.stemify_add_dconv, task)
        return None

    def add_attention(
        self, x: Tensor, scale: Any, attention: nn.MultiheadAttention, query_input: Tensor, key_input: Tensor
    ) -> Tensor:
        channels, heads = attention.embed_dim, attention.num_heads
        of_head = channels // heads
        if of_head > _MAX_HEAD_CHANNELS or (self._exact > 1 and of_head % TILE):
            return super().add_attention(x, scale, attention, query_input, key_input)
        weight, bias, last = attention.in_proj_weight, attention.in_proj_bias, attention.out_proj
        query = self._packed(attention, "query", lambda: pack(weight[:channels].T, bias[:channels], parts=self._exact))
        rest = self._packed(attention, "rest", lambda: pack(weight[channels:].T, bias[channels:], parts=self._exact))
        queries, others = self._multiply(query, query_input), self._multiply(rest, key_input)
        mixed = torch.empty_like(queries)
        for one, other, into in zip(queries, others, mixed, strict=True):
            task = structs.Attention(
                one.data_ptr(), other.data_ptr(), other[:, channels:].data_ptr(), len(one), len(other), heads, of_head,
                channels, 2 * channels, query.parts, into.data_ptr(), channels,
            )  # fmt: skip
            _call(self._library.stemify_attend, task)
        packed = self._packed(last, "plain", lambda: pack(last.weight.T, last.bias, parts=self._rough))
        return self._multiply(packed, mixed, structs.ADD, old=x.contiguous(), scale=_scale(scale, channels))

    def add_feed_forward(self, x: Tensor, scale: Any, layer: Any, normed: Tensor) -> Tensor:
        first, second = layer.linear1, layer.linear2
        if layer.activation is not F.gelu:
            return super().add_feed_forward(x, scale, layer, normed)
        missing = -first.out_features % PANEL  # hidden channels; the first product sets them to zero
        inner = self._packed(first, "plain", lambda: pack(first.weight.T, first.bias, parts=self._rough))
        outer = self._packed(
            second, "plain", lambda: pack(F.pad(second.weight.T, (0, 0, 0, missing)), second.bias, parts=self._rough)
        )
        normed, old, channels = normed.contiguous(), x.contiguous(), x.shape[-1]
        out, scales = torch.empty_like(old), _scale(scale, channels)
        task = structs.FeedForward(
            normed.data_ptr(), normed.numel() // channels, channels, PANEL * inner.panels, inner.parts,
            *(part.data_ptr() for part in (inner.weight, inner.bias, outer.weight, outer.bias, out, scales, old)),
        )  # fmt: skip
        _call(self._library.stemify_feed_forward, task)
        return out

    def _convolve(self, conv: Any, x: Tensor, ending: int) -> Tensor:
        weight, strides, paddings = in_two_dimensions(conv)
        bins, frames = (_Taps(*sizes) for sizes in zip(weight.shape[2:], strides, paddings, strict=True))
        is_gated = ending == structs.GLU
        in_pairs = self._exact == 1 and frames == _NEIGHBOURS_AND_ITSELF
        packed = self._packed(
            conv,
            "gated" if is_gated else "plain",
            lambda: pack_convolution(weight, conv.bias, parts=self._exact, gated=is_gated, in_pairs=in_pairs),
        )
        made = (bins.output_size(x.shape[1]), frames.output_size(x.shape[2]))
        out = x.new_empty(len(x), *made, packed.columns)
        where = structs.Where((made[1] * packed.columns, packed.columns))
        self._run_each(packed, x, out, ending, bins, frames, where)
        return out

    def _multiply(
        self,
        packed: PackedMatrix,
        x: Tensor,
        ending: int = structs.PLAIN,
        *,
        old: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        """Map (…, n) to (…, columns of the matrix), plus `old` if given."""
        out = x.new_empty(*x.shape[:-1], packed.columns)
        rows = x.flatten(0, -2).contiguous()
        self._run(
            packed,
            rows[None],
            out,
            ending,
            _ONE_TAP,
            _ONE_TAP,
            structs.Where((0, packed.columns), old=old, scale=scale),
        )
        return out

    def _run_each(
        self,
        packed: PackedMatrix,
        x: Tensor,
        out: Tensor,
        ending: int,
        bins: _Taps,
        frames: _Taps,
        where: structs.Where,
    ) -> None:
        for one, into in zip(x.contiguous(), out, strict=True):
            self._run(packed, one, into, ending, bins, frames, where)

    def _run(
        self,
        packed: PackedMatrix,
        x: Tensor,
        out: Tensor,
        ending: int,
        bins: _Taps,
        frames: _Taps,
        where: structs.Where,
    ) -> None:
        """x: (bins, frames, channels)."""
        channels = x.shape[2]
        offsets = packed.group * where.apart + packed.within
        task = structs.Convolution(
            x.data_ptr(), *x.shape, x.shape[1] * channels, channels, bins.taps, bins.stride, bins.padding, frames.taps,
            frames.stride, frames.padding, bins.output_size(x.shape[0]), frames.output_size(x.shape[1]),
            packed.weight.data_ptr(), packed.bias.data_ptr(), packed.parts, packed.panels, ending,
            out.numel() > _UNCACHED_VALUES, out.data_ptr(), *where.pitches, offsets.data_ptr(),
            packed.widths.data_ptr(),
            *(None if values is None else values.data_ptr() for values in (where.scale, where.old)),
        )  # fmt: skip
        library = self._library
        _call(library.stemify_convolve_pairs if packed.in_pairs else library.stemify_convolve, task)

    def _packed(self, layer: nn.Module, part: str, make: Callable[[], T]) -> T:
        with self._lock:
            packs = self._packs.setdefault(layer, {})
            if part not in packs:
                packs[part] = make()
            found: T = packs[part]
            return found


def is_built_with_tiles(library: Path) -> bool:
    """Return whether a library was compiled with AMX support."""
    return bool(ctypes.CDLL(str(library)).stemify_has_tiles())


def on_tiles(library: Path) -> NativeOps | None:
    """Return a library's ops on AMX; None unless processor, compiler and system all support it."""
    if has_tiles() and is_built_with_tiles(library):
        with contextlib.suppress(RuntimeError):
            return NativeOps(library, tiles=True)
    return None


def _call(function: Callable[[Any], int], task: ctypes.Structure) -> None:
    """Call a function of the library. Raises `MemoryError` if it cannot allocate its scratch memory."""
    if function(ctypes.byref(task)):
        raise MemoryError("no scratch memory for a native op")


def _is_common(conv: Any) -> bool:
    return conv.groups == 1 and all(by == 1 for by in conv.dilation)


def _scale(scale: Any, channels: int) -> Tensor:
    """Return a factor for every column of every panel."""
    values = torch.ones(channels) if isinstance(scale, nn.Identity) else scale.scale
    return F.pad(values, (0, -channels % PANEL))


def _cpu_flags() -> str:
    """Return a digest of the processor's model and features."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        relevant = {line for line in lines if line.startswith(("model name", "flags", "Features"))}  # of every core
        return sha256("\n".join(sorted(relevant)).encode()).hexdigest()[:12]
    return platform.processor()
