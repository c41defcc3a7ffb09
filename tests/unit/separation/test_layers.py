"""The layers on a CPU against those of demucs."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from demucs import hdemucs
from demucs import transformer as demucs_transformer
from torch import Tensor, nn

from engine.separation.network import layers
from engine.separation.network.transformer import cross_attention_layer, self_attention_layer
from engine.separation.ops.torch_ops import added
from tests.fixtures import tiny_models
from tests.fixtures.signals import noise, snr_db

HEncLayer: Any = hdemucs.HEncLayer
HDecLayer: Any = hdemucs.HDecLayer
transformer: Any = demucs_transformer
PLAIN = {"depth": 2, "compress": 4, "init": 0.3}
MEMORY = {"depth": 2, "compress": 4, "init": 0.3, "lstm": True, "attn": True}


trained = partial(tiny_models.trained, by=0.3)


def laid(x: Tensor, layout: str) -> Tensor:
    """Return `x` in Demucs' layout, or with channels last, as between two layers."""
    return x if layout == "apart" else x.transpose(1, -1).contiguous().transpose(1, -1)


LAYOUTS = pytest.mark.parametrize("layout", ["apart", "side by side"])


@LAYOUTS
@pytest.mark.parametrize("branches", [PLAIN, PLAIN | {"depth": 3}, PLAIN | {"kernel": 5}, MEMORY, None])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("shape", [(1, 6, 32, 40), (2, 6, 32, 40), (1, 6, 8, 1), (1, 6, 4001), (2, 6, 4)])
def test_encoder_layer_matches_demucs(
    shape: tuple[int, ...], norm: bool, branches: dict[str, Any] | None, layout: str
) -> None:
    layer = trained(
        HEncLayer(
            6, 16, freq=len(shape) == 4, norm=norm, norm_groups=4, dconv=branches is not None, dconv_kw=branches or {}
        )
    )
    with torch.no_grad():
        assert snr_db(layer(noise(*shape)), layers.encode(layer, laid(noise(*shape), layout))) > 110


SMALL: list[tuple[int, ...]] = [(1, 16, 8, 40), (2, 16, 8, 3), (1, 128, 3, 5), (1, 16, 999)]
DECODED = [
    *product([*SMALL, (1, 16, 60, 300)], [PLAIN, PLAIN | {"kernel": 5}, None]),
    *product([*SMALL, (1, 16, 6, 300)], [MEMORY]),  # the LSTM reads more than 200 frames in parts
]


@LAYOUTS
@pytest.mark.parametrize(("shape", "branches"), DECODED)
@pytest.mark.parametrize(
    "build",
    [{}, {"last": True}, {"context": 1}, {"context": 1, "context_freq": False}, {"rewrite": False},
     {"rewrite": False, "norm": True, "norm_groups": 2}],
)  # fmt: skip
def test_decoder_layer_matches_demucs(
    shape: tuple[int, ...], build: dict[str, Any], branches: dict[str, Any] | None, layout: str
) -> None:
    is_freq = len(shape) == 4
    build = {"norm": False} | build | ({} if is_freq else {"context_freq": True})
    layer = trained(HDecLayer(shape[1], 6, freq=is_freq, dconv=bool(branches), dconv_kw=branches or {}, **build))
    length = shape[-1] if is_freq else 4 * shape[-1] - 3
    with torch.no_grad():
        expected = layer(noise(*shape), 0.5 * noise(*shape), length)
        found = layers.decode(layer, laid(noise(*shape), layout), laid(0.5 * noise(*shape), layout), length)
    for wanted, got in zip(expected, found, strict=True):
        assert wanted.shape == got.shape
        assert snr_db(wanted, got) > 110


def test_time_branch_joins_the_bins() -> None:
    layer = trained(HEncLayer(6, 16, kernel_size=4, stride=4, pad=False, norm=False, dconv_kw=PLAIN))
    x, joining = noise(1, 6, 4, 40), noise(1, 16, 40)
    with torch.no_grad():
        assert snr_db(layer(x, joining), layers.encode(layer, x, joining)) > 110


@LAYOUTS
def test_inputs_needed_again_are_unchanged(layout: str) -> None:
    encoder, decoder = (
        trained(kind(*channels, norm=False, dconv_kw=PLAIN))
        for kind, channels in ((HEncLayer, (6, 16)), (HDecLayer, (16, 6)))
    )
    x, skip = laid(noise(1, 6, 32, 40), layout), laid(noise(1, 16, 8, 40), layout)
    with torch.no_grad():
        layers.encode(encoder, x)
        layers.decode(decoder, laid(noise(1, 16, 8, 40), layout), skip, 40)
    assert torch.equal(x, noise(1, 6, 32, 40))
    assert torch.equal(skip, noise(1, 16, 8, 40))


@pytest.mark.parametrize("norms_all", [False, True])
@pytest.mark.parametrize(("batch", "length"), [(1, 40), (2, 1300)])
def test_transformer_layer_matches_demucs(batch: int, length: int, norms_all: bool) -> None:
    build = {"norm_first": True, "group_norm": norms_all, "norm_out": True, "layer_scale": True, "batch_first": True}
    own = trained(transformer.MyTransformerEncoderLayer(32, 4, 1024, **build))
    crossing = trained(transformer.CrossTransformerEncoderLayer(32, 4, 1024, **build))
    x, other = noise(batch, length, 32), noise(batch, length // 2, 32)
    with torch.no_grad():
        assert snr_db(own(x), self_attention_layer(own, x)) > 110
        assert snr_db(crossing(x, other), cross_attention_layer(crossing, x, other)) > 110


@pytest.mark.parametrize("scale", [demucs_transformer.LayerScale(8, 0.1, channel_last=True), nn.Identity()])
def test_half_precision_change_keeps_single_precision_sum(scale: nn.Module) -> None:
    x, change = torch.empty(1, 4, 8, device="meta"), torch.empty(1, 4, 8, device="meta", dtype=torch.half)
    assert added(x, scale.to("meta"), change).dtype == torch.float32
