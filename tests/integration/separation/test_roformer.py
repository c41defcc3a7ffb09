"""RoFormer networks equal those of the package pymss-core on the same weights."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from pymss_core.modules.bs_roformer import BSRoformer, MelBandRoformer  # type: ignore[import-untyped]
from torch import Tensor, nn

from engine.jobs.roformer_config import MELBAND_VOCALS, RoFormerConfig
from engine.separation import Separator
from engine.separation.models.roformer_files import build, shape_of
from engine.separation.network.bands import mel_bands
from tests.fixtures.roformer_reference import TINY, assert_equals
from tests.fixtures.signals import noise
from tests.fixtures.tiny_roformers import BS_SIZES, FOUR_STEMS, VOCALS, randomise, tiny_roformer

EP_17 = RoFormerConfig(485_100, 441, ("drums", "bass", "other", "vocals"), None)


def reference(config: RoFormerConfig, *, is_mel: bool, dim: int = 16, **sizes: int) -> nn.Module:
    """Return pymss-core's network with random weights."""
    kind: dict[str, Any] = {
        "stereo": True,
        "num_stems": len(config.sources),
        "time_transformer_depth": 1,
        "freq_transformer_depth": 1,
        "attn_dropout": 0,
        "ff_dropout": 0,
        "stft_hop_length": config.hop_samples,
        "mask_estimator_depth": 2,
        "zero_dc": False,
        **TINY,
        **sizes,
    }
    if is_mel:
        network: nn.Module = MelBandRoformer(dim, num_bands=60, mlp_hidden_layers=2, **kind)
    else:
        network = BSRoformer(dim, freqs_per_bands=BS_SIZES, **kind)
    randomise(network)
    network.eval()
    return network


def assert_equal(config: RoFormerConfig, windows: Tensor, *, is_mel: bool, **sizes: int) -> None:
    assert_equals(reference(config, is_mel=is_mel, **sizes), config, windows)


@pytest.mark.parametrize("is_mel", [True, False])
@pytest.mark.parametrize("samples", [11_025, 11_000, 7_501])
@pytest.mark.parametrize("batch", [1, 2])
def test_network_equals_reference(is_mel: bool, samples: int, batch: int) -> None:
    config = RoFormerConfig(samples, 441, FOUR_STEMS.instruments, None)
    assert_equal(config, 0.2 * noise(2 * batch, samples).view(batch, 2, -1), is_mel=is_mel)


@pytest.mark.parametrize("is_mel", [True, False])
@pytest.mark.parametrize("kind", ["offset", "mono", "quiet", "loud"])
def test_unusual_input_equals_reference(is_mel: bool, kind: str) -> None:
    windows = 0.2 * noise(2, VOCALS.window_samples)[None]
    changed = {
        "offset": windows + 0.5,
        "mono": windows[:, :1].expand(-1, 2, -1),
        "quiet": 1e-5 * windows,
        "loud": 50 * windows,
    }
    assert_equal(VOCALS, changed[kind].contiguous(), is_mel=is_mel)


@pytest.mark.parametrize("is_mel", [True, False])
def test_silence_stays_silent(is_mel: bool) -> None:
    with torch.no_grad():
        found = tiny_roformer(FOUR_STEMS, is_mel=is_mel)(torch.zeros(1, 2, FOUR_STEMS.window_samples))
    assert not found.any()


@pytest.mark.parametrize("is_mel", [True, False])
def test_other_sizes_equal_reference(is_mel: bool) -> None:
    config = RoFormerConfig(10_240, 512, ("vocals", "instrumental"), None)
    windows = 0.2 * noise(2, config.window_samples)[None]
    assert_equal(config, windows, is_mel=is_mel, dim=24, depth=3, heads=3, dim_head=16, mlp_expansion_factor=1)


def test_layers_of_full_width_equal_reference() -> None:
    config = RoFormerConfig(8_820, 441, ("vocals", "other"), "vocals")
    windows = 0.2 * noise(2, config.window_samples)[None]
    assert_equal(config, windows, is_mel=True, dim=384, depth=1, heads=8, dim_head=64)


def test_bands_are_those_of_the_mel_bank() -> None:
    bands = mel_bands()
    assert [len(band) for band in bands[:3]] == [7, 6, 6] and len(bands) == 60 and sum(map(len, bands)) == 1979
    expected = MelBandRoformer(8, depth=1, num_bands=60).freqs_per_band
    for band, row in zip(bands, expected, strict=True):
        assert row.nonzero().flatten().tolist() == list(band)


@pytest.mark.parametrize(
    ("config", "is_mel", "depth", "hidden", "keys", "parameters"),
    [
        pytest.param(MELBAND_VOCALS, True, 6, 4, 684, 228_202_788, id="melband_vocals"),
        pytest.param(EP_17, False, 8, 2, 1355, 131_704_100, id="BS-RoFormer ep 17"),
    ],
)
def test_published_networks_have_their_sizes(
    config: RoFormerConfig, is_mel: bool, depth: int, hidden: int, keys: int, parameters: int
) -> None:
    expected = published_shapes(config, is_mel=is_mel, depth=depth, hidden=hidden * 384)
    with torch.device("meta"):
        network = build(shape_of(expected, config), config)
    found = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert found == expected and len(found) == keys
    assert sum(each.numel() for each in network.parameters()) == parameters


def published_shapes(
    config: RoFormerConfig, *, is_mel: bool, depth: int, hidden: int, dim: int = 384
) -> dict[str, tuple[int, ...]]:
    """Return the parameters of a published checkpoint."""
    widths = [4 * size for size in (map(len, mel_bands()) if is_mel else BS_SIZES)]
    shapes: dict[str, tuple[int, ...]] = {} if is_mel else {"final_norm.gamma": (dim,)}
    for band, width in enumerate(widths):
        split = f"band_split.to_features.{band}"
        shapes |= {f"{split}.0.gamma": (width,), f"{split}.1.weight": (dim, width), f"{split}.1.bias": (dim,)}
        sizes = [dim, hidden, hidden, 2 * width] if is_mel else [dim, hidden, 2 * width]
        for stem in range(len(config.sources)):
            for number, (size, out) in enumerate(pairwise(sizes)):
                linear = f"mask_estimators.{stem}.to_freqs.{band}.0.{2 * number}"
                shapes |= {f"{linear}.weight": (out, size), f"{linear}.bias": (out,)}
    for block in (f"layers.{pair}.{axis}" for pair in range(depth) for axis in (0, 1)):
        attention, feed_forward = f"{block}.layers.0.0", f"{block}.layers.0.1.net"
        shapes |= {f"{block}.norm.gamma": (dim,)} if is_mel else {}
        shapes |= {
            f"{attention}.rotary_embed.freqs": (32,),
            f"{attention}.norm.gamma": (dim,),
            f"{attention}.to_qkv.weight": (1536, dim),
            f"{attention}.to_gates.weight": (8, dim),
            f"{attention}.to_gates.bias": (8,),
            f"{attention}.to_out.0.weight": (dim, 512),
            f"{feed_forward}.0.gamma": (dim,),
            f"{feed_forward}.1.weight": (4 * dim, dim),
            f"{feed_forward}.1.bias": (4 * dim,),
            f"{feed_forward}.4.weight": (dim, 4 * dim),
            f"{feed_forward}.4.bias": (dim,),
        }
    return shapes


@pytest.mark.parametrize("samples", [500, 30_001])
def test_stems_add_up_to_the_mix(samples: int) -> None:
    mix = 0.2 * noise(2, samples)
    stems = Separator(tiny_roformer()).separate(mix, shifts=1, overlap=0.25, seed=3)
    assert list(stems) == ["vocals", "instrumental"]
    torch.testing.assert_close(sum(stems.values()), mix)
    assert stems["vocals"].abs().max() > 0.01


def test_short_song_is_padded_to_a_full_window() -> None:
    mix = 0.2 * noise(2, 5_000)
    network = tiny_roformer()
    window = torch.nn.functional.pad(mix, (3_012, 3_013))
    with torch.no_grad():
        expected = network(window[None])[0, 0, :, 3_012:8_012]
    found = Separator(network).separate(mix, shifts=0, overlap=0.25)["vocals"]
    torch.testing.assert_close(found, expected)


def test_shorter_segments_get_a_full_window() -> None:
    mix = 0.2 * noise(2, 15_000)
    found = Separator(tiny_roformer()).separate(mix, shifts=0, overlap=0.25, segment=0.125)
    assert found["vocals"].shape == mix.shape


def test_network_for_the_rest_gives_its_complement() -> None:
    config = RoFormerConfig(11_025, 441, ("vocals", "other"), "other")
    windows = 0.2 * noise(2, config.window_samples)[None]
    inverted, plain = tiny_roformer(config), tiny_roformer(VOCALS)
    assert (inverted.sources, inverted.rest) == (("vocals",), "instrumental")
    with torch.no_grad():
        torch.testing.assert_close(inverted(windows), windows[:, None] - plain(windows))
