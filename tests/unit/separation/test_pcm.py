from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from julius.resample import resample_frac

from engine.errors import EmptyInput
from engine.separation.audio.pcm import PcmMix


def write_pcm(path: Path, signal: np.ndarray) -> Path:
    """Write `signal` (channels, samples)."""
    path.write_bytes(np.ascontiguousarray(signal.T, dtype="<f4").tobytes())
    return path


def noise(channels: int, samples: int, offset: float = 0.0) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((channels, samples)).astype(np.float32) * 0.1 + offset


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 48000, 96000, 192000, 37800])
def test_any_range_equals_resampling_the_whole(tmp_path: Path, rate: int) -> None:
    signal = noise(2, rate // 3 + 17)
    with PcmMix(write_pcm(tmp_path / "mix", signal), channels=2, sample_rate=rate) as mix:
        whole = resample_frac(torch.from_numpy(signal), rate, 44100)
        assert mix.samples == whole.shape[-1]
        for start, stop in [(0, 1), (0, 500), (1234, 6001), (mix.samples - 1, mix.samples), (0, mix.samples)]:
            torch.testing.assert_close(mix.plain(start, stop), whole[:, start:stop], atol=1e-6, rtol=0)


def test_coprime_rates_resample_without_huge_kernel(tmp_path: Path) -> None:
    # use this code path at a rate that julius supports, for comparison
    signal = noise(1, 900)
    with PcmMix(write_pcm(tmp_path / "mix", signal), channels=1, sample_rate=48000) as mix:
        expected = mix.plain(0, mix.samples)
        mix._resampler._kernels = None
        torch.testing.assert_close(mix.plain(0, mix.samples), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(mix.plain(301, 644), expected[:, 301:644], atol=1e-5, rtol=0)
    with PcmMix(tmp_path / "mix", channels=1, sample_rate=44101) as mix:
        assert mix.plain(0, mix.samples).shape == (2, 899)


@pytest.mark.parametrize("offset", [0.0, 0.7])
def test_mix_is_scaled_as_in_stock_demucs(tmp_path: Path, offset: float) -> None:
    signal = noise(2, 700_000, offset)
    stock = torch.from_numpy(signal)
    reference = stock.mean(0)
    expected = (stock - stock.mean(1, keepdim=True)) / (reference.std() + 1e-8)
    with PcmMix(write_pcm(tmp_path / "mix", signal), channels=2, sample_rate=44100) as mix:
        torch.testing.assert_close(mix.read(0, mix.samples), expected, atol=1e-4, rtol=1e-5)


def test_offset_is_removed_and_reported(tmp_path: Path) -> None:
    signal = noise(2, 700_000)
    signal -= signal.mean(1, keepdims=True)
    shifted = signal + np.array([[0.4], [-0.05]], dtype=np.float32)
    with PcmMix(write_pcm(tmp_path / "mix", shifted), channels=2, sample_rate=44100) as mix:
        np.testing.assert_allclose(mix.without_offset(0, mix.samples).numpy(), signal, atol=1e-6)
        assert mix.offset == pytest.approx(0.4, abs=1e-5)
    with PcmMix(write_pcm(tmp_path / "mix", signal), channels=2, sample_rate=44100) as mix:
        assert mix.offset == 0
    with PcmMix(write_pcm(tmp_path / "mix", signal * 1e-3 + 1e-4), channels=2, sample_rate=44100) as mix:
        assert mix.offset == pytest.approx(1e-4, rel=0.01)  # small, but significant for this song


SECONDS = np.arange(8 * 44100) / 44100


@pytest.mark.parametrize(
    ("offset", "largest", "error"),
    [
        (0.03 * np.sin(2 * np.pi * 0.05 * SECONDS), 0.03, 1e-4),
        (0.03 * np.sin(2 * np.pi * 0.3 * SECONDS), 0.03, 8e-3),
        (np.where(SECONDS < 5.2, 0.4, 0.43), 0.43, 1e-4),
        (np.where(SECONDS < 5.2, -0.03, 0.03), 0.03, 1e-4),
    ],
)
def test_drifting_offset_is_removed(
    tmp_path: Path, offset: np.ndarray[tuple[int], np.dtype[np.float64]], largest: float, error: float
) -> None:
    signal = noise(2, len(SECONDS))
    signal -= signal.mean(1, keepdims=True)
    drifting = signal + np.stack([offset, 0 * offset]).astype(np.float32)
    with PcmMix(write_pcm(tmp_path / "mix", drifting), channels=2, sample_rate=44100) as mix:
        rest = mix.without_offset(0, mix.samples).numpy() - signal
        assert mix.offset == pytest.approx(largest, rel=0.1)
        assert mix.std == pytest.approx(signal.mean(0).std(), rel=0.01)
        parts = torch.cat(
            [mix.read(start, min(start + 30_011, mix.samples)) for start in range(0, mix.samples, 30_011)], 1
        )
        torch.testing.assert_close(parts, mix.read(0, mix.samples))
    means = rest[:, : 16 * 22050].reshape(2, 16, 22050).mean(2)  # half seconds
    at_jump = np.abs(np.arange(16) - 10) <= 1 if np.ptp(np.diff(offset)) > 0.01 else np.zeros(16, bool)
    assert np.abs(means[:, ~at_jump]).max() < error + 2e-3, "the noise itself has means, too"


LOUD_BASS = np.sin(2 * np.pi * 31 * SECONDS[:, None] + [0.3, 0.4]).T.astype(np.float32)


@pytest.mark.parametrize(
    "signal",
    [noise(2, 700_000), noise(2, 30_000) + 1, LOUD_BASS, LOUD_BASS[:, 200:], LOUD_BASS[:, :100_000], LOUD_BASS**2],
    ids=["noise", "short", "bass", "bass that begins late", "bass that ends early", "bass with an offset"],
)
def test_music_keeps_its_constant_offset(
    tmp_path: Path, signal: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> None:
    with PcmMix(write_pcm(tmp_path / "mix", signal), channels=2, sample_rate=44100) as mix:
        plain = mix.plain(0, mix.samples)
        assert torch.equal(mix.read(0, mix.samples), (plain - mix.means[:, None]) / mix.std)


def test_mono_becomes_stereo(tmp_path: Path) -> None:
    with PcmMix(write_pcm(tmp_path / "mix", noise(1, 1000)), channels=1, sample_rate=44100) as mix:
        read = mix.read(10, 20)
    assert read.shape == (2, 10)
    assert torch.equal(read[0], read[1])


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_silence_and_a_constant_stay_finite(tmp_path: Path, value: float) -> None:
    with PcmMix(write_pcm(tmp_path / "mix", np.full((2, 5000), value)), channels=2, sample_rate=44100) as mix:
        assert torch.equal(mix.read(0, 5000), torch.zeros(2, 5000))


def test_single_sample_is_valid(tmp_path: Path) -> None:
    with PcmMix(write_pcm(tmp_path / "mix", np.full((2, 1), 0.5)), channels=2, sample_rate=44100) as mix:
        assert mix.samples == 1
        assert mix.read(0, 1).isfinite().all()


def test_empty_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(EmptyInput):
        PcmMix(write_pcm(tmp_path / "mix", np.zeros((2, 0))), channels=2, sample_rate=44100)
