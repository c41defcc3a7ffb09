"""Key and tempo: pitch, timing, and the sum of a version's stems."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.media.samples import Samples
from engine.mixes import stretch
from engine.mixes.stretch import Stretcher
from tests.fixtures.mix_server import open_mix_server
from tests.fixtures.planted_results import plant
from tests.fixtures.recording import lag
from tests.fixtures.songs import tune

RATE = 44100
pytestmark = pytest.mark.timeout(600)


def stretched(samples: Samples, *, key: float = 0.0, tempo: float = 1.0, block: int = 60_000) -> Samples:
    def blocks() -> Iterator[Samples]:
        for start in range(0, samples.shape[1], block):
            yield samples[:, start : start + block]

    made: Iterable[Samples] = Stretcher(samples.shape[0], RATE, key=key, tempo=tempo).stretch(blocks())
    return np.concatenate(list(made), axis=1)


def frequency(samples: Samples) -> float:
    """Return the frequency of a sine, from the phase that it gains in two seconds."""
    middle = samples[0, samples.shape[1] // 2 - RATE : samples.shape[1] // 2 + RATE].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(middle.size), 8 * middle.size))
    peak = int(np.argmax(spectrum))
    low, top, high = np.log(spectrum[peak - 1 : peak + 2])
    return float((peak + 0.5 * (low - high) / (low - 2 * top + high)) * RATE / (8 * middle.size))


@pytest.mark.parametrize(("key", "tempo"), [(-2, 1), (5, 0.8), (-12, 1.5), (12, 0.5), (0, 0.9)])
def test_sine_has_the_right_frequency(key: float, tempo: float) -> None:
    time_s = np.arange(8 * RATE) / RATE
    sine = np.tile((0.5 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32), (2, 1))
    cents = 1200 * np.log2(frequency(stretched(sine, key=key, tempo=tempo)) / 440)
    assert cents == pytest.approx(100 * key, abs=2)


@pytest.mark.parametrize("tempo", [0.8, 1.25])
def test_clicks_keep_their_time_for_five_minutes(tempo: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretch, "_PART_VALUES", 2 * 40 * RATE)  # eight parts
    times_s = [1.0, 38.0, 80.5, 150.0, 222.2, 299.0]
    samples = (1e-4 * np.random.default_rng(0).standard_normal((2, 300 * RATE))).astype(np.float32)
    for time_s in times_s:
        samples[:, round(time_s * RATE)] = 0.9
    made = stretched(samples, tempo=tempo, block=RATE)
    assert made.shape[1] == round(samples.shape[1] / tempo)
    for time_s in times_s:
        due = round(time_s / tempo * RATE)
        around = np.abs(made[0, due - RATE // 4 : due + RATE // 4])
        assert abs(int(np.argmax(around)) - RATE // 4) < 0.005 * RATE


def test_parts_of_a_long_song_meet_without_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    song = tune(20)
    whole = stretched(song, key=-2, tempo=0.9)
    monkeypatch.setattr(stretch, "_PART_VALUES", 2 * 5 * RATE)
    parts = stretched(song, key=-2, tempo=0.9)
    assert parts.shape == whole.shape
    assert np.abs(np.diff(parts)).max() < 1.5 * np.abs(np.diff(whole)).max()
    levels = [
        np.sqrt(np.mean(each.reshape(2, -1, 200) ** 2, axis=2)) for each in (parts[:, :960_000], whole[:, :960_000])
    ]
    assert np.abs(levels[0]).min() > 0.2 * np.abs(levels[1]).min()


async def test_version_stems_add_up_to_its_mix(tmp_path: Path) -> None:
    stems = {name: 0.3 * tune(2, seed=seed) for seed, name in enumerate(("vocals", "drums", "bass", "other"))}
    async with open_mix_server(tmp_path) as server:
        job_id = await plant(tmp_path, stems, title="Sunny", kind="flac", gain_db=-3.0)
        status, version = await server.post(job_id, "versions", key=-2, tempo=0.9)
        assert status == 201, version
        assert (version["name"], version["key"], version["tempo"]) == ("Sunny (−2, 90 %)", -2, 0.9)
        assert set(version["stems"]) == set(stems) and version["expiresAt"]
        found = {name: (await server.samples(stem["url"], tmp_path))[0] for name, stem in version["stems"].items()}
        assert version["stems"]["drums"]["filename"] == "Sunny - drums (−2, 90 %).flac"
        mix = await server.mixed(job_id, tmp_path, key=-2, tempo=0.9)
        assert {samples.shape for samples in found.values()} == {mix.shape} == {(2, round(2 * RATE / 0.9))}
        total = np.sum(list(found.values()), axis=0) / 10 ** (version["gainDb"] / 20)
        residual_db = 10 * np.log10(np.mean((total - mix) ** 2) / np.mean(mix**2))
        assert residual_db < -60
        assert version["gainDb"] == pytest.approx(-3.0)


async def test_preview_is_a_small_version(tmp_path: Path) -> None:
    stems = {"vocals": tune(6), "instrumental": tune(6, seed=1)}
    async with open_mix_server(tmp_path) as server:
        job_id = await plant(tmp_path, stems, title="Sunny", kind="flac")
        status, version = await server.post(job_id, "versions", preview=True)
        assert status == 201, version
        assert version["name"] == "Sunny (preview)"
        for name, samples in stems.items():
            stem = version["stems"][name]
            assert stem["filename"] == f"Sunny - {name} (preview).mp3"
            assert stem["size"] < 6 * 64_000 / 8 + 10_000
            found, _ = await server.samples(stem["url"], tmp_path)
            assert found.shape == samples.shape
            assert lag(found[0, RATE : 2 * RATE], samples[0]) == RATE, "0 samples apart from the stem"
        assert (await server.post(job_id, "versions", preview=True))[1] == version, "it is made once"
        assert (await server.post(job_id, "versions", preview="yes"))[0] == 422
        assert (await server.post(job_id, "mixes", preview=True))[0] == 422


async def test_version_of_mp3_job_is_mp3(tmp_path: Path) -> None:
    async with open_mix_server(tmp_path) as server:
        job_id = await plant(tmp_path, {"vocals": tune(1), "instrumental": tune(1, seed=1)}, title="Sunny")
        status, version = await server.post(job_id, "versions", tempo=1.5)
        assert status == 201 and version["stems"]["vocals"]["filename"] == "Sunny - vocals (150 %).mp3"
        assert (await server.download(version["stems"]["vocals"]["url"]))[:3] == b"ID3"
