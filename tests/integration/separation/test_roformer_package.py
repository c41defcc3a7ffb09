"""RoFormer networks equal those of the package bs-roformer 0.3.10, whose layout the published checkpoints have."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from engine.jobs.roformer_config import RoFormerConfig
from engine.separation.network.bands import mel_bands
from tests.fixtures.roformer_reference import TINY, assert_equals
from tests.fixtures.signals import noise
from tests.fixtures.tiny_roformers import BS_SIZES, FOUR_STEMS, VOCALS, randomise

REQUIREMENTS = Path(__file__).parents[2] / "fixtures" / "bs_roformer.txt"


@pytest.fixture(scope="session")
def package(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """Import the package from a folder in pytest's cache, where it is installed once."""
    cache = request.config.cache
    assert cache is not None
    folder = cache.mkdir("bs-roformer-0.3.10")
    if not (folder / "bs_roformer").is_dir():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--require-hashes", "--target", str(folder), "-r", str(REQUIREMENTS)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"bs-roformer cannot be installed here: {done.stderr.strip()[-300:]}")
    before = {*sys.modules}
    librosa = ModuleType("librosa")
    librosa.filters = ModuleType("librosa.filters")  # type: ignore[attr-defined]
    librosa.filters.mel = mel_bank
    sys.modules |= {"librosa": librosa, "librosa.filters": librosa.filters}
    sys.path.insert(0, str(folder))
    try:
        with warnings.catch_warnings(action="ignore"):
            package = importlib.import_module("bs_roformer")
        yield package
    finally:
        sys.path.remove(str(folder))
        for name in {*sys.modules} - before:
            if name.partition(".")[0] in ("librosa", "bs_roformer", "beartype", "rotary_embedding_torch", "einops"):
                del sys.modules[name]


def mel_bank(*, n_mels: int, **_: Any) -> NDArray[np.float32]:
    """Stand in for librosa: of its filter bank, the network uses only which values are above 0."""
    bank = np.zeros((n_mels, 1025), np.float32)
    for row, bins in zip(bank, mel_bands(), strict=True):
        row[list(bins)] = 1
    return bank


def network_of(package: ModuleType, config: RoFormerConfig, *, is_mel: bool, dim: int = 16, **sizes: int) -> nn.Module:
    kind: dict[str, Any] = {
        "stereo": True,
        "num_stems": len(config.sources),
        "time_transformer_depth": 1,
        "freq_transformer_depth": 1,
        "flash_attn": False,
        "stft_hop_length": config.hop_samples,
        "mask_estimator_depth": 2,
        **TINY,
        **sizes,
    }
    bands = {"num_bands": 60} if is_mel else {"freqs_per_bands": BS_SIZES}
    with warnings.catch_warnings(action="ignore"):
        network: nn.Module = (package.MelBandRoformer if is_mel else package.BSRoformer)(dim, **bands, **kind)
    randomise(network)
    return network.eval()


@pytest.mark.parametrize("is_mel", [False, True])
@pytest.mark.parametrize(("samples", "batch"), [(11_025, 1), (11_025, 2), (7_501, 2)])
def test_network_equals_the_package(package: ModuleType, is_mel: bool, samples: int, batch: int) -> None:
    config = RoFormerConfig(samples, 441, FOUR_STEMS.instruments, None)
    windows = 0.2 * noise(2 * batch, samples).view(batch, 2, -1)
    assert_equals(network_of(package, config, is_mel=is_mel), config, windows)


@pytest.mark.parametrize("is_mel", [False, True])
@pytest.mark.parametrize("kind", ["offset", "mono"])
def test_unusual_input_equals_the_package(package: ModuleType, is_mel: bool, kind: str) -> None:
    windows = 0.2 * noise(2, VOCALS.window_samples)[None]
    changed = windows + 0.5 if kind == "offset" else windows[:, :1].expand(-1, 2, -1)
    assert_equals(network_of(package, VOCALS, is_mel=is_mel), VOCALS, changed.contiguous())


def test_layers_of_full_width_equal_the_package(package: ModuleType) -> None:
    config = RoFormerConfig(8_820, 441, ("vocals", "other"), "vocals")
    network = network_of(package, config, is_mel=False, dim=384, depth=1, heads=8, dim_head=64)
    assert_equals(network, config, 0.2 * noise(2, config.window_samples)[None])
