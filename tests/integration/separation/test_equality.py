"""Separation equals `demucs.apply.apply_model` on the same weights, within 90 dB."""

from __future__ import annotations

import random

import pytest
import torch
from demucs.apply import BagOfModels, apply_model
from torch import Tensor, nn

from engine.errors import BadOptions
from engine.separation import Separator
from tests.fixtures.signals import noise, snr_db
from tests.fixtures.tiny_models import SOURCES, awake, tiny_hdemucs, tiny_htdemucs

RATE = 44100
WEIGHTS = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.5], [0.0, 0.25, 1.0, 1.0]]


def bag_of(*members: nn.Module, weights: list[list[float]] | None = None) -> BagOfModels:
    return BagOfModels(list(members), weights)  # type: ignore[arg-type]


SHAPE = {"nfft": 4096, "depth": 4, "channels": 4}
MODELS: dict[str, nn.Module] = {
    "htdemucs": awake(tiny_htdemucs(1, **SHAPE)),
    "hdemucs": awake(tiny_hdemucs(2)),
    "hdemucs_old": awake(tiny_hdemucs(3, hybrid_old=True)),
    "bag": bag_of(*(awake(tiny_htdemucs(seed, **SHAPE)) for seed in (4, 5, 6)), weights=WEIGHTS),
    "hdemucs_bag": bag_of(awake(tiny_hdemucs(7)), awake(tiny_hdemucs(8, segment=1.2))),
}


def stock(model: nn.Module, mix: Tensor, **how: float | None) -> Tensor:
    random.seed(7)
    return apply_model(model, mix[None], **how)[0]  # type: ignore[arg-type]


def assert_equal(model: nn.Module, mix: Tensor, **how: float | None) -> None:
    expected = stock(model, mix, **how)
    found = Separator(model).separate(mix, seed=7, **how)  # type: ignore[arg-type]
    assert list(found) == SOURCES
    for stem, wanted in zip(SOURCES, expected, strict=True):
        assert found[stem].shape == mix.shape
        assert snr_db(wanted, found[stem]) >= 90


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("samples", "shifts", "overlap"),
    [
        (1, 0, 0.25),
        (1, 2, 0.1),
        (30_000, 0, 0.1),
        (30_000, 2, 0.25),
        (3 * RATE + 13, 0, 0.25),
        (3 * RATE + 13, 2, 0.1),
    ],
)
def test_separation_equals_stock(name: str, shifts: int, overlap: float, samples: int) -> None:
    assert_equal(MODELS[name], noise(2, samples), shifts=shifts, overlap=overlap)


@pytest.mark.parametrize("seconds", [15, pytest.param(60, marks=pytest.mark.nightly)])
def test_many_segments_equal_stock(seconds: int) -> None:
    assert_equal(MODELS["htdemucs"], noise(2, seconds * RATE), shifts=0, overlap=0.1)


@pytest.mark.parametrize("name", ["htdemucs", "hdemucs_bag"])
@pytest.mark.parametrize("segment", [0.5, 1.0])
def test_shorter_segment_equals_stock(name: str, segment: float) -> None:
    assert_equal(MODELS[name], noise(2, int(2.5 * segment * RATE)), shifts=1, overlap=0.25, segment=segment)


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_unusual_overlaps_equal_stock(overlap: float) -> None:
    assert_equal(MODELS["htdemucs"], noise(2, 4 * RATE), shifts=0, overlap=overlap)


@pytest.mark.parametrize("name", ["htdemucs", "hdemucs"])
def test_dual_mono_constant_and_clipping_equal_stock(name: str) -> None:
    assert_equal(MODELS[name], noise(1, 3 * RATE).expand(2, -1), shifts=0, overlap=0.25)
    assert_equal(MODELS[name], torch.full((2, 3 * RATE), 0.5), shifts=1, overlap=0.25)
    assert_equal(MODELS[name], (noise(2, 3 * RATE) * 9).clamp(-1, 1), shifts=0, overlap=0.25)


@pytest.mark.parametrize("name", ["htdemucs", "hdemucs"])
def test_silence_equals_stock(name: str) -> None:
    assert_equal(MODELS[name], torch.zeros(2, 3 * RATE), shifts=0, overlap=0.25)


def test_mono_mix_is_copied_to_both_channels() -> None:
    separator = Separator(MODELS["htdemucs"])
    mix = noise(1, RATE)
    mono = separator.separate(mix, shifts=0, overlap=0.25)
    stereo = separator.separate(mix.expand(2, -1), shifts=0, overlap=0.25)
    assert all(torch.equal(mono[stem], stereo[stem]) for stem in SOURCES)


def test_same_seed_gives_same_stems() -> None:
    separator = Separator(MODELS["htdemucs"])
    mix = noise(2, 3 * RATE)
    first, second = (separator.separate(mix, shifts=2, overlap=0.25, seed=3) for _ in range(2))
    assert all(torch.equal(first[stem], second[stem]) for stem in SOURCES)


def test_global_random_state_is_unchanged() -> None:
    random.seed(1)
    before = random.getstate()
    Separator(MODELS["htdemucs"]).separate(noise(2, 1000), shifts=2, overlap=0.25)
    assert random.getstate() == before


def test_module_is_unchanged() -> None:
    model = awake(tiny_htdemucs(9))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Separator(model).separate(noise(2, 1000), shifts=0, overlap=0.25)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("mix", "how"),
    [
        (torch.zeros(3, 100), {}),
        (torch.zeros(100), {}),
        (torch.zeros(2, 0), {}),
        (torch.zeros(2, 100), {"segment": 60.0}),
        (torch.zeros(2, 100), {"segment": 0.0}),
        (torch.zeros(2, 100), {"overlap": 1.0}),
    ],
)
def test_invalid_mix_or_options_are_rejected(mix: Tensor, how: dict[str, float]) -> None:
    with pytest.raises(BadOptions):
        Separator(MODELS["htdemucs"]).separate(mix, shifts=0, **{"overlap": 0.25, **how})  # type: ignore[arg-type]
