"""The products of our own against torch's: with vectors of every width that this processor has, on AMX where there is
any, and everywhere with tiles that are worked out one by one."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import tomllib
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

from engine.separation.build_kernels import check_faithful, compile_library
from engine.separation.native import library as kernels_module
from engine.separation.native import ops as native_products
from engine.separation.native.library import NativeLibrary
from engine.separation.native.ops import NativeOps
from engine.separation.network import layers
from engine.separation.network.forward import forward_of
from engine.separation.network.transformer import cross_attention_layer, self_attention_layer
from engine.separation.ops.torch_ops import TORCH, TorchOps
from tests.fixtures import tiny_models
from tests.fixtures.signals import noise, snr_db
from tests.fixtures.tiny_models import awake, tiny_hdemucs, tiny_htdemucs

FAITHFUL_DB = 100
HEncLayer: Any = hdemucs.HEncLayer
HDecLayer: Any = hdemucs.HDecLayer
transformer: Any = demucs_transformer
BRANCHES = {"depth": 2, "compress": 4, "init": 0.3}

AVX2 = ("-mavx2", "-mfma")
ANY: tuple[str, ...] = ()
WAYS = {  # the compiler's flags if they are not those for this processor, and whether tiles are used
    "vectors": (None, False),
    "vectors of AVX2": (AVX2, False),
    "vectors of any processor": (ANY, False),
    "tiles, one by one": (ANY, True),
    "AMX": (None, True),
}
OWN = ("vectors", "AMX")  # the whole matrix runs nightly for the others
Compile = Callable[[Sequence[str] | None], Path]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    if shutil.which("g++") is None:
        pytest.skip("no compiler here")
    folder = tmp_path_factory.mktemp("native")

    @cache
    def compile_once(flags: Sequence[str] | None) -> Path:
        library = folder / f"{len(list(folder.iterdir()))}.so"
        compile_library(library, flags)
        return library

    return compile_once


def publish(library: Path, kernels: NativeLibrary) -> None:
    copy = kernels.files.folder / "copy.so"
    shutil.copy(library, copy)
    kernels.files.publish(copy)


@pytest.fixture(params=[way if way in OWN else pytest.param(way, marks=pytest.mark.nightly) for way in WAYS])
def products(request: pytest.FixtureRequest, compiled: Compile) -> NativeOps:
    return native_ops(request.param, compiled)


@pytest.fixture(params=list(WAYS))
def products_of_every_way(request: pytest.FixtureRequest, compiled: Compile) -> NativeOps:
    return native_ops(request.param, compiled)


def native_ops(way: str, compiled: Compile) -> NativeOps:
    flags, tiles = WAYS[way]
    if flags is None and tiles and not native_products.has_tiles():
        pytest.skip("no AMX here")
    if flags == AVX2 and torch.backends.cpu.get_cpu_capability() not in {"AVX2", "AVX512"}:
        pytest.skip("no AVX2 here")
    return NativeOps(compiled(flags), tiles=tiles)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


trained = partial(tiny_models.trained, by=0.1)


def test_every_kind_of_product_is_faithful(products_of_every_way: NativeOps) -> None:
    check_faithful(products_of_every_way)


@pytest.mark.parametrize("shape", [(1, 6, 32, 40), (2, 6, 8, 1), (1, 48, 16, 300), (1, 6, 4001), (2, 6, 4)])
def test_an_encoder_layer_gives_what_demucs_gives(products: NativeOps, shape: tuple[int, ...]) -> None:
    layer = trained(HEncLayer(shape[1], 24, freq=len(shape) == 4, norm=False, dconv_kw=BRANCHES))
    assert snr_db(layer(noise(*shape)), layers.encode(layer, noise(*shape), None, products)) > FAITHFUL_DB


@pytest.mark.parametrize("build", [{}, {"last": True}, {"context": 0}, {"rewrite": False}])
@pytest.mark.parametrize("shape", [(1, 16, 8, 40), (2, 24, 8, 3), (1, 96, 3, 270), (1, 16, 999), (2, 40, 2)])
def test_a_decoder_layer_gives_what_demucs_gives(
    products: NativeOps, shape: tuple[int, ...], build: dict[str, Any]
) -> None:
    is_freq = len(shape) == 4
    layer = trained(HDecLayer(shape[1], 6, freq=is_freq, norm=False, context_freq=True, dconv_kw=BRANCHES, **build))
    length = shape[-1] if is_freq else 4 * shape[-1] - 3
    expected = layer(noise(*shape), 0.5 * noise(*shape), length)
    found = layers.decode(layer, noise(*shape), 0.5 * noise(*shape), length, products)
    for wanted, got in zip(expected, found, strict=True):
        assert wanted.shape == got.shape
        assert snr_db(wanted, got) > FAITHFUL_DB


def test_the_time_branch_is_taken_in_where_it_joins_the_bins(products: NativeOps) -> None:
    layer = trained(HEncLayer(6, 16, kernel_size=4, stride=4, pad=False, norm=False, dconv_kw=BRANCHES))
    x, joining = noise(1, 6, 4, 40), noise(1, 16, 40)
    assert snr_db(layer(x, joining), layers.encode(layer, x, joining, products)) > FAITHFUL_DB


@pytest.mark.parametrize(
    ("channels", "heads", "hidden"), [(128, 2, 512), (48, 3, 100), (80, 5, 64), (24, 2, 96), (512, 2, 64)]
)
@pytest.mark.parametrize(("batch", "length"), [(2, 41), (1, 700)])
def test_a_layer_of_the_transformer_gives_what_demucs_gives(
    products: NativeOps, channels: int, heads: int, hidden: int, batch: int, length: int
) -> None:
    build = {"norm_first": True, "group_norm": True, "norm_out": True, "layer_scale": True, "batch_first": True}
    own = trained(transformer.MyTransformerEncoderLayer(channels, heads, hidden, **build))
    crossing = trained(transformer.CrossTransformerEncoderLayer(channels, heads, hidden, **build))
    x, other = noise(batch, length, channels), noise(batch, length // 2, channels)
    assert snr_db(own(x), self_attention_layer(own, x, products)) > FAITHFUL_DB
    assert snr_db(crossing(x, other), cross_attention_layer(crossing, x, other, products)) > FAITHFUL_DB
    assert torch.equal(x, noise(batch, length, channels))
    assert torch.equal(other, noise(batch, length // 2, channels))


@pytest.mark.parametrize("order", [1, -1])
def test_sharp_attention_is_as_sharp_whatever_comes_first(products: NativeOps, order: int) -> None:
    """Scores that rise by hundreds from the first keys to the last, or fall."""
    attention = trained(nn.MultiheadAttention(64, 2, batch_first=True))
    asks = 3 + noise(1, 70, 64)
    answers = order * torch.linspace(-20, 20, 600)[None, :, None] + noise(1, 600, 64)
    same = nn.Identity()
    expected = TORCH.add_attention(asks, same, attention, asks, answers)
    assert snr_db(expected, products.add_attention(asks, same, attention, asks, answers)) > FAITHFUL_DB


def test_gates_and_activations_bear_any_number(products: NativeOps) -> None:
    conv = nn.Conv1d(1, 2, 1)
    conv.weight.fill_(1)
    assert conv.bias is not None
    conv.bias.zero_()
    x = torch.tensor([-1e30, -1e4, -90.0, -1.0, 0.0, 1.0, 90.0, 1e4, 1e15])[None, None, :, None]
    for found, expected in (
        (products.gated(conv, x), TORCH.gated(conv, x)),
        (products.convolved(conv, x, activate=True), TORCH.convolved(conv, x, activate=True)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_what_is_no_number_does_not_become_one(products: NativeOps) -> None:
    """Or a broken network would pass for a quiet one."""
    attention: Any = trained(nn.MultiheadAttention(32, 1, batch_first=True))
    x, lost = noise(1, 40, 32), torch.full((1, 1, 32), torch.nan)
    asked = products.add_attention(torch.zeros_like(x), nn.Identity(), attention, torch.cat([x[:, 1:], lost], 1), x)
    assert asked[:, -1].isnan().all()
    assert not asked[:, :-1].isnan().any()
    gate = trained(nn.Conv1d(8, 16, 1))
    assert products.gated(gate, torch.full((1, 1, 3, 8), torch.nan)).isnan().all()
    assert products.convolved(gate, torch.full((1, 1, 3, 8), torch.nan), activate=True).isnan().all()


def test_what_is_no_number_stays_in_its_own_pass(products: NativeOps) -> None:
    conv, x = trained(nn.Conv1d(24, 8, 3, padding=1)), noise(1, 1, 500, 24)
    expected = products.convolved(conv, x)
    products.convolved(conv, torch.full_like(x, torch.nan))  # in the memory that is used again
    products.convolved(conv, torch.full_like(x[:, :, :499], torch.inf))
    assert torch.equal(products.convolved(conv, x), expected)


def test_the_number_of_threads_changes_no_bit(products: NativeOps) -> None:
    layer: Any = trained(nn.TransformerEncoderLayer(64, 2, 256, activation=nn.functional.gelu, batch_first=True))
    conv, x, image = trained(nn.Conv2d(8, 16, 3, padding=1)), noise(1, 600, 64), noise(1, 5, 300, 8)
    (branch,) = trained(DConv(48, depth=1)).layers
    found: list[list[Tensor]] = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            attended = products.add_attention(x, nn.Identity(), layer.self_attn, x, x)
            fed = products.add_feed_forward(x, nn.Identity(), layer, x)
            spread_out, in_one = noise(3, 700, 48), noise(1, 2100, 48)
            for rows in (spread_out, in_one):
                products.add_branch(branch, rows)
            found.append([attended, fed, products.gated(conv, image), spread_out, in_one])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


def test_what_is_packed_goes_with_its_layer(products: NativeOps) -> None:
    conv = trained(nn.Conv1d(8, 8, 1))
    products.convolved(conv, noise(1, 1, 10, 8))
    packed = weakref.ref(next(iter(products._packs[conv].values())))
    del conv
    gc.collect()
    assert packed() is None


@pytest.mark.parametrize("network", [tiny_htdemucs(segment=1, channels=32), tiny_hdemucs(segment=1, channels=32)])
def test_a_network_takes_them_up_between_two_passes(
    network: nn.Module, compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels_module, "_LOOK_AGAIN_S", 0.0)
    kernels = NativeLibrary(tmp_path, build_after_s=float("inf"))
    forward, windows = forward_of(awake(network), kernels), 0.1 * noise(1, 2, 44100)
    before = forward(windows)
    publish(compiled(None), kernels)
    after = forward(windows)
    assert not torch.equal(before, after)
    assert snr_db(before, after) > FAITHFUL_DB


def test_a_network_whose_tiles_would_be_empty_uses_vectors(
    compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_products, "has_tiles", lambda: True)
    monkeypatch.setattr(native_products, "is_built_with_tiles", lambda library: True)
    kernels = NativeLibrary(tmp_path, build_after_s=float("inf"))
    publish(compiled(ANY), kernels)
    wide, narrow = (kernels.products_for(tiny_htdemucs(channels=channels), 0.0) for channels in (32, 16))
    assert wide is not None
    assert narrow is not None
    conv, x = trained(nn.Conv1d(24, 8, 3, padding=1)), noise(1, 1, 500, 24)
    by_vectors = NativeOps(compiled(ANY)).convolved(conv, x)
    assert torch.equal(narrow.convolved(conv, x), by_vectors)
    assert not torch.equal(wide.convolved(conv, x), by_vectors)


def test_failed_compilation_leaves_only_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = tmp_path / "c++"
    refusing.write_text("#!/bin/sh\necho 'what is -mamx-tile?' >&2; exit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("CXX", str(refusing))
    folder = tmp_path / "kernels"
    folder.mkdir()
    command = [sys.executable, "-m", "engine.separation.build_kernels", str(folder), "key"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as builder:
        assert builder.wait(90) != 0
    assert sorted(path.name for path in folder.iterdir()) == ["key.failed", "key.lock"]
    assert "what is -mamx-tile?" in (folder / "key.failed").read_text()


WITHOUT_MEMORY = """
import os, resource, sys, threading, torch
from pathlib import Path
from engine.separation.native.ops import NativeOps
from engine.separation.ops.torch_ops import TORCH, TorchOps
from tests.integration.separation.test_native_ops import large_products

torch.set_num_threads(1)
products = NativeOps(Path(sys.argv[1]))
makes = large_products()
# packs the weights; the scratch memory ends with the thread
loading = threading.Thread(target=lambda: [make(products) for make in makes.values()])
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
    while size >= 1 << 15:  # fills what malloc keeps
        try:
            ballast.append(bytearray(size))
        except MemoryError:
            size //= 2
    for _ in range(1000):
        limit += 1 << 19
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            found = make(products)
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


def large_products() -> dict[str, Callable[[TorchOps], Tensor]]:
    """A large product of every kind."""
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    layer: Any = nn.TransformerEncoderLayer(512, 4, 2048, activation=nn.functional.gelu, batch_first=True)
    (branch,) = DConv(96, depth=1, init=1, dilate=False).layers
    x, image, rows = noise(1, 1500, 512), noise(1, 2, 500, 512), noise(1, 20_000, 96)
    wide, pair = nn.Conv2d(512, 32, (5, 1)), nn.Conv2d(512, 32, (1, 3), padding=(0, 1))
    same = nn.Identity()

    def add_branch(products: TorchOps) -> Tensor:
        out = rows.clone()
        products.add_branch(branch, out)
        return out

    return {
        "attention": lambda by: by.add_attention(x, same, layer.self_attn, x, x),
        "feed forward": lambda by: by.add_feed_forward(x, same, layer, x),
        "convolution": lambda by: by.convolved(wide, torch.cat([image] * 5, 1)),
        "pairs": lambda by: by.convolved(pair, image),
        "branch": add_branch,
    }


def test_products_without_memory_raise_memory_error(compiled: Compile) -> None:
    command = [sys.executable, "-c", WITHOUT_MEMORY, str(compiled(None))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ended = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert ended == dict.fromkeys(large_products(), "0"), done.stderr[-2000:]


def test_every_source_is_in_the_package() -> None:
    settings = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["engine.separation.native"]
    folder = Path(native_products.__file__).parent
    packed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert native_products.SOURCES
    assert packed.issuperset(native_products.SOURCES)


def test_they_are_built_here(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no compiler")
    kernels = NativeLibrary(tmp_path)
    reason = kernels.build_now()
    if reason is not None and reason.startswith("a network is not faster"):
        pytest.skip(reason)
    assert reason is None
    assert isinstance(kernels.products_for(tiny_htdemucs(channels=32), 0.0), NativeOps)
    kernels.passed()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".log", ".sha256", ".so"]
