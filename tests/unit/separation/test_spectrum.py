"""The inverse STFT, independent of the memory layout."""

from __future__ import annotations

import pytest
import torch

from engine.separation.network.spectrum import Spectrum
from tests.fixtures.signals import noise, snr_db


@pytest.mark.parametrize("frames", [1, 16, 37])
def test_channels_last_gives_same_signal(frames: int) -> None:
    spectrum = Spectrum(fft_samples=2048, length=512 * frames, old=False, device=torch.device("cpu"))
    parts = noise(1, 3 * 4, 1024, frames)
    side_by_side = parts.contiguous(memory_format=torch.channels_last)
    assert side_by_side.stride(1) == 1
    scale, offset = torch.tensor([0.5]), torch.tensor([0.1])
    expected, found = (
        spectrum.synthesise(each.view(1, 3, 4, 1024, frames), scale, offset) for each in (parts, side_by_side)
    )
    assert expected.shape == (1, 3, 2, 512 * frames)
    assert snr_db(expected, found) > 130
