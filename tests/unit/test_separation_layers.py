"""The layers as we run them on a CPU against demucs' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from demucs import hdemucs
from torch import nn

from engine.separation import layers
from tests.signals import noise, snr_db
from tests.tiny_models import awake

HEncLayer: Any = hdemucs.HEncLayer
HDecLayer: Any = hdemucs.HDecLayer
PLAIN = {"depth": 2, "compress": 4, "init": 0.3}
MEMORY = {"depth": 2, "compress": 4, "init": 0.3, "lstm": True, "attn": True}


def trained(layer: nn.Module) -> Any:
    """`layer` with norms and scales that are not those of the first step of a training."""
    torch.manual_seed(5)
    for parameter in layer.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return awake(layer).eval()


@pytest.mark.parametrize("branches", [PLAIN, PLAIN | {"depth": 3}, PLAIN | {"kernel": 5}, MEMORY, None])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("shape", [(1, 6, 32, 40), (2, 6, 32, 40), (1, 6, 8, 1), (1, 6, 4001), (2, 6, 4)])
def test_an_encoder_layer_gives_what_demucs_gives(
    shape: tuple[int, ...], norm: bool, branches: dict[str, Any] | None
) -> None:
    layer = trained(
        HEncLayer(
            6, 16, freq=len(shape) == 4, norm=norm, norm_groups=4, dconv=branches is not None, dconv_kw=branches or {}
        )
    )
    with torch.no_grad():
        assert snr_db(layer(noise(*shape)), layers.encode(layer, noise(*shape))) > 110


@pytest.mark.parametrize("branches", [PLAIN, MEMORY, None])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(1, 16, 8, 40), (2, 16, 8, 3), (1, 16, 60, 300), (1, 128, 3, 5), (1, 16, 999)])
def test_a_decoder_layer_gives_what_demucs_gives(
    shape: tuple[int, ...], last: bool, branches: dict[str, Any] | None
) -> None:
    layer = trained(
        HDecLayer(
            shape[1], 6, freq=len(shape) == 4, last=last, norm=False, dconv=bool(branches), dconv_kw=branches or {}
        )
    )
    length = shape[-1] if len(shape) == 4 else 4 * shape[-1] - 3
    with torch.no_grad():
        expected = layer(noise(*shape), 0.5 * noise(*shape), length)
        found = layers.decode(layer, noise(*shape), 0.5 * noise(*shape), length)
    for wanted, got in zip(expected, found, strict=True):
        assert wanted.shape == got.shape
        assert snr_db(wanted, got) > 110


def test_the_time_branch_is_taken_in_where_it_joins_the_bins() -> None:
    layer = trained(HEncLayer(6, 16, kernel_size=4, stride=4, pad=False, norm=False, dconv_kw=PLAIN))
    x, joining = noise(1, 6, 4, 40), noise(1, 16, 40)
    with torch.no_grad():
        assert snr_db(layer(x, joining), layers.encode(layer, x, joining)) > 110


def test_the_input_of_a_layer_is_left_as_it_was() -> None:
    encoder, decoder = trained(HEncLayer(6, 16, dconv_kw=PLAIN)), trained(HDecLayer(16, 6, dconv_kw=PLAIN))
    x, y, skip = noise(1, 6, 32, 40), noise(1, 16, 8, 40), noise(1, 16, 8, 40)
    with torch.no_grad():
        layers.encode(encoder, x)
        layers.decode(decoder, y, skip, 40)
    assert torch.equal(x, noise(1, 6, 32, 40))
    assert torch.equal(y, noise(1, 16, 8, 40))
    assert torch.equal(skip, noise(1, 16, 8, 40))
