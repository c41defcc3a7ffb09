"""Native ops against torch's: every vector width of this processor, AMX where present, and emulated tiles."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from demucs import hdemucs
from demucs import transformer as demucs_transformer
from demucs.demucs import DConv
from torch import Tensor, nn

from engine.separation.build_native import check_faithful, compile_library
from engine.separation.native import library as library_module
from engine.separation.native import ops as native_ops
from engine.separation.native.library import NativeLibrary
from engine.separation.native.ops import NativeOps
from engine.separation.network import layers
from engine.separation.network.forward import forward_of
from engine.separation.network.transformer import cross_attention_layer, self_attention_layer
from engine.separation.ops.torch_ops import TORCH
from tests.fixtures import tiny_models
from tests.fixtures.signals import noise, snr_db
from tests.fixtures.tiny_models import awake, tiny_hdemucs, tiny_htdemucs

FAITHFUL_DB = 100
HEncLayer: Any = hdemucs.HEncLayer
HDecLayer: Any = hdemucs.HDecLayer
transformer: Any = demucs_transformer
DCONV = {"depth": 2, "compress": 4, "init": 0.3}

AVX2 = ("-O1", "-mavx2", "-mfma")  # -O1 halves the time of compiling, and more
ANY = ("-O1",)
BUILDS = {  # compiler flags (None: for this processor), whether tiles are used
    "vectors": (None, False),
    "vectors of AVX2": (AVX2, False),
    "vectors of any processor": (ANY, False),
    "tiles, one by one": (ANY, True),
    "AMX": (None, True),
}
OWN = ("vectors", "AMX")  # the other builds run nightly
Compile = Callable[[Sequence[str] | None], Path]
pytestmark = pytest.mark.timeout(300)  # compiling takes a minute where other processes compute


@pytest.fixture(scope="module")
def compiled(native_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    folder = tmp_path_factory.mktemp("native")

    @cache
    def compile_once(flags: Sequence[str] | None) -> Path:
        if flags is None:
            return native_library
        library = folder / f"{len(list(folder.iterdir()))}.so"
        compile_library(library, flags)
        return library

    return compile_once


def publish(built: Path, library: NativeLibrary) -> None:
    copy = library.files.folder / "copy.so"
    shutil.copy(built, copy)
    library.files.publish(copy)


@pytest.fixture(params=[build if build in OWN else pytest.param(build, marks=pytest.mark.nightly) for build in BUILDS])
def ops(request: pytest.FixtureRequest, compiled: Compile) -> NativeOps:
    return load_ops(request.param, compiled)


@pytest.fixture(params=list(BUILDS))
def ops_of_every_build(request: pytest.FixtureRequest, compiled: Compile) -> NativeOps:
    return load_ops(request.param, compiled)


def load_ops(build: str, compiled: Compile) -> NativeOps:
    flags, tiles = BUILDS[build]
    if flags is None and tiles and not native_ops.has_tiles():
        pytest.skip("no AMX here")
    if flags == AVX2 and torch.backends.cpu.get_cpu_capability() not in {"AVX2", "AVX512"}:
        pytest.skip("no AVX2 here")
    return NativeOps(compiled(flags), tiles=tiles)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


trained = partial(tiny_models.trained, by=0.1)


def test_every_op_matches_torch(ops_of_every_build: NativeOps) -> None:
    check_faithful(ops_of_every_build)


@pytest.mark.parametrize("shape", [(1, 6, 32, 40), (2, 6, 8, 1), (1, 48, 16, 300), (1, 6, 4001), (2, 6, 4)])
def test_encoder_layer_matches_demucs(ops: NativeOps, shape: tuple[int, ...]) -> None:
    layer = trained(HEncLayer(shape[1], 24, freq=len(shape) == 4, norm=False, dconv_kw=DCONV))
    assert snr_db(layer(noise(*shape)), layers.encode(layer, noise(*shape), None, ops)) > FAITHFUL_DB


@pytest.mark.parametrize("build", [{}, {"last": True}, {"context": 0}, {"rewrite": False}])
@pytest.mark.parametrize("shape", [(1, 16, 8, 40), (2, 24, 8, 3), (1, 96, 3, 270), (1, 16, 999), (2, 40, 2)])
def test_decoder_layer_matches_demucs(ops: NativeOps, shape: tuple[int, ...], build: dict[str, Any]) -> None:
    is_freq = len(shape) == 4
    layer = trained(HDecLayer(shape[1], 6, freq=is_freq, norm=False, context_freq=True, dconv_kw=DCONV, **build))
    length = shape[-1] if is_freq else 4 * shape[-1] - 3
    expected = layer(noise(*shape), 0.5 * noise(*shape), length)
    found = layers.decode(layer, noise(*shape), 0.5 * noise(*shape), length, ops)
    for wanted, got in zip(expected, found, strict=True):
        assert wanted.shape == got.shape
        assert snr_db(wanted, got) > FAITHFUL_DB


def test_time_branch_joins_the_bins(ops: NativeOps) -> None:
    layer = trained(HEncLayer(6, 16, kernel_size=4, stride=4, pad=False, norm=False, dconv_kw=DCONV))
    x, joining = noise(1, 6, 4, 40), noise(1, 16, 40)
    assert snr_db(layer(x, joining), layers.encode(layer, x, joining, ops)) > FAITHFUL_DB


@pytest.mark.parametrize(
    ("channels", "heads", "hidden"), [(128, 2, 512), (48, 3, 100), (80, 5, 64), (24, 2, 96), (512, 2, 64)]
)
@pytest.mark.parametrize(("batch", "length"), [(2, 41), (1, 700)])
def test_transformer_layer_matches_demucs(
    ops: NativeOps, channels: int, heads: int, hidden: int, batch: int, length: int
) -> None:
    build = {"norm_first": True, "group_norm": True, "norm_out": True, "layer_scale": True, "batch_first": True}
    own = trained(transformer.MyTransformerEncoderLayer(channels, heads, hidden, **build))
    crossing = trained(transformer.CrossTransformerEncoderLayer(channels, heads, hidden, **build))
    x, other = noise(batch, length, channels), noise(batch, length // 2, channels)
    assert snr_db(own(x), self_attention_layer(own, x, ops)) > FAITHFUL_DB
    assert snr_db(crossing(x, other), cross_attention_layer(crossing, x, other, ops)) > FAITHFUL_DB
    assert torch.equal(x, noise(batch, length, channels))
    assert torch.equal(other, noise(batch, length // 2, channels))


@pytest.mark.parametrize("order", [1, -1])
def test_attention_with_a_wide_range_of_scores_matches_torch(ops: NativeOps, order: int) -> None:
    """Scores rise or fall by hundreds from the first key to the last."""
    attention = trained(nn.MultiheadAttention(64, 2, batch_first=True))
    asks = 3 + noise(1, 70, 64)
    answers = order * torch.linspace(-20, 20, 600)[None, :, None] + noise(1, 600, 64)
    same = nn.Identity()
    expected = TORCH.add_attention(asks, same, attention, asks, answers)
    assert snr_db(expected, ops.add_attention(asks, same, attention, asks, answers)) > FAITHFUL_DB


def test_gates_and_activations_accept_extreme_values(ops: NativeOps) -> None:
    conv = nn.Conv1d(1, 2, 1)
    conv.weight.fill_(1)
    assert conv.bias is not None
    conv.bias.zero_()
    x = torch.tensor([-1e30, -1e4, -90.0, -1.0, 0.0, 1.0, 90.0, 1e4, 1e15])[None, None, :, None]
    for found, expected in (
        (ops.gated(conv, x), TORCH.gated(conv, x)),
        (ops.convolved(conv, x, activate=True), TORCH.convolved(conv, x, activate=True)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_nan_inputs_give_nan(ops: NativeOps) -> None:
    """Otherwise a broken network would sound like silence."""
    attention: Any = trained(nn.MultiheadAttention(32, 1, batch_first=True))
    x, lost = noise(1, 40, 32), torch.full((1, 1, 32), torch.nan)
    asked = ops.add_attention(torch.zeros_like(x), nn.Identity(), attention, torch.cat([x[:, 1:], lost], 1), x)
    assert asked[:, -1].isnan().all()
    assert not asked[:, :-1].isnan().any()
    gate = trained(nn.Conv1d(8, 16, 1))
    assert ops.gated(gate, torch.full((1, 1, 3, 8), torch.nan)).isnan().all()
    assert ops.convolved(gate, torch.full((1, 1, 3, 8), torch.nan), activate=True).isnan().all()


def test_nan_does_not_reach_the_next_pass(ops: NativeOps) -> None:
    conv, x = trained(nn.Conv1d(24, 8, 3, padding=1)), noise(1, 1, 500, 24)
    expected = ops.convolved(conv, x)
    ops.convolved(conv, torch.full_like(x, torch.nan))  # fills the scratch memory
    ops.convolved(conv, torch.full_like(x[:, :, :499], torch.inf))
    assert torch.equal(ops.convolved(conv, x), expected)


def test_result_does_not_depend_on_thread_count(ops: NativeOps) -> None:
    layer: Any = trained(nn.TransformerEncoderLayer(64, 2, 256, activation=nn.functional.gelu, batch_first=True))
    conv, x, image = trained(nn.Conv2d(8, 16, 3, padding=1)), noise(1, 600, 64), noise(1, 5, 300, 8)
    (branch,) = trained(DConv(48, depth=1)).layers
    found: list[list[Tensor]] = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            attended = ops.add_attention(x, nn.Identity(), layer.self_attn, x, x)
            fed = ops.add_feed_forward(x, nn.Identity(), layer, x)
            spread_out, in_one = noise(3, 700, 48), noise(1, 2100, 48)
            for rows in (spread_out, in_one):
                ops.add_dconv(branch, rows)
            found.append([attended, fed, ops.gated(conv, image), spread_out, in_one])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


def test_packed_weights_are_freed_with_their_layer(ops: NativeOps) -> None:
    conv = trained(nn.Conv1d(8, 8, 1))
    ops.convolved(conv, noise(1, 1, 10, 8))
    packed = weakref.ref(next(iter(ops._packs[conv].values())))
    del conv
    gc.collect()
    assert packed() is None


@pytest.mark.parametrize("network", [tiny_htdemucs(segment=1, channels=32), tiny_hdemucs(segment=1, channels=32)])
def test_network_uses_native_ops_from_the_next_pass(
    network: nn.Module, compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "_RETRY_AFTER_S", 0.0)
    library = NativeLibrary(tmp_path, build_after_s=float("inf"))
    forward, windows = forward_of(awake(network), library), 0.1 * noise(1, 2, 44100)
    before = forward(windows)
    publish(compiled(None), library)
    after = forward(windows)
    assert not torch.equal(before, after)
    assert snr_db(before, after) > FAITHFUL_DB


def test_narrow_network_uses_vectors(compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_ops, "has_tiles", lambda: True)
    monkeypatch.setattr(native_ops, "is_built_with_tiles", lambda library: True)
    library = NativeLibrary(tmp_path, build_after_s=float("inf"))
    publish(compiled(ANY), library)
    wide, narrow = (library.ops_for(tiny_htdemucs(channels=channels), 0.0) for channels in (32, 16))
    assert wide is not None
    assert narrow is not None
    conv, x = trained(nn.Conv1d(24, 8, 3, padding=1)), noise(1, 1, 500, 24)
    by_vectors = NativeOps(compiled(ANY)).convolved(conv, x)
    assert torch.equal(narrow.convolved(conv, x), by_vectors)
    assert not torch.equal(wide.convolved(conv, x), by_vectors)
