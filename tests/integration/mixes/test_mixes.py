"""Mixes over HTTP, from planted stems: their sound, names and tags."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.service.service import MixRequest
from tests.fixtures.mix_server import MixServer, open_mix_server, samples_of
from tests.fixtures.planted_results import plant
from tests.fixtures.songs import Samples, tune

RATE = 44100
pytestmark = pytest.mark.timeout(600)
STEMS: dict[str, Samples] = {
    name: 0.4 * tune(3, seed=seed) for seed, name in enumerate(("vocals", "drums", "bass", "other"))
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[MixServer]:
    async with open_mix_server(tmp_path) as server:
        yield server


def summed(stems: dict[str, Samples]) -> Samples:
    total: Samples = np.sum(list(stems.values()), axis=0, dtype=np.float32)
    return total


def level_db(samples: NDArray[Any], reference: NDArray[Any]) -> float:
    return float(10 * np.log10(np.mean(samples**2) / np.mean(reference**2) + 1e-30))


async def test_gains_sum_stems(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny", kind="wav")
    mix = await server.mixed(job_id, tmp_path)
    assert level_db(mix - summed(STEMS), mix) < -120
    mix = await server.mixed(job_id, tmp_path, gains={"drums": 0, "bass": 0.5})
    assert level_db(mix - (STEMS["vocals"] + 0.5 * STEMS["bass"] + STEMS["other"]), mix) < -120


async def test_pans_are_those_of_the_player(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny", kind="wav")
    status, answer = await server.post(job_id, pans={"drums": -0.5, "bass": 1, "other": 0}, format="wav")
    assert status == 201 and answer["filename"] == "Sunny (panned).wav"
    mix, _ = await server.samples(answer["url"], tmp_path)
    left, right = STEMS["drums"]
    drums = np.stack([left + right * np.cos(np.pi / 4), right * np.sin(np.pi / 4)])
    bass = np.stack([np.zeros_like(left), STEMS["bass"].sum(axis=0)])
    wanted = STEMS["vocals"] + drums + bass + STEMS["other"]
    assert level_db(mix / 10 ** (answer["gainDb"] / 20) - wanted, wanted) < -70
    assert (await server.post(job_id, pans={"bass": 0}))[1]["filename"] == "Sunny (mix).mp3"


async def test_common_gain_of_the_job_is_undone(server: MixServer, tmp_path: Path) -> None:
    quiet = {name: 0.5 * stem for name, stem in STEMS.items()}
    job_id = await plant(tmp_path, quiet, title="Sunny", kind="wav", gain_db=-6.0206)
    mix = await server.mixed(job_id, tmp_path)
    assert level_db(mix - summed(STEMS), mix) < -90


async def test_loud_sum_is_lowered_by_the_reported_gain(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny", kind="wav")
    status, answer = await server.post(job_id, gains={"vocals": 4, "drums": 4}, format="wav")
    mix, _ = await server.samples(answer["url"], tmp_path)
    wanted = 4 * STEMS["vocals"] + 4 * STEMS["drums"] + STEMS["bass"] + STEMS["other"]
    assert status == 201 and answer["gainDb"] < -1
    assert np.abs(mix).max() == pytest.approx(0.9999, abs=1e-4)
    assert level_db(mix / 10 ** (answer["gainDb"] / 20) - wanted, wanted) < -70


async def test_range_is_cut_to_the_sample(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny", kind="wav")
    mix = await server.mixed(job_id, tmp_path, **{"from": 0.5, "to": 2})
    assert mix.shape == (2, round(1.5 * RATE))
    assert level_db(mix - summed(STEMS)[:, RATE // 2 : 2 * RATE], mix) < -120
    assert (await server.mixed(job_id, tmp_path, to=99)).shape == (2, 3 * RATE)


async def test_names_tags_and_format(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny", artist="Band")
    for values, name in (
        ({}, "mix"),
        ({"gains": {"drums": 0}, "key": -2}, "no drums, −2"),
        ({"gains": {"vocals": 0}}, "karaoke"),
        ({"gains": {"drums": 0, "vocals": 0, "other": 0}}, "only bass"),
        ({"gains": {"drums": 0.7}, "tempo": 0.9}, "drums −3.1 dB, 90 %"),
        ({"from": 1, "to": 2}, "0:01–0:02"),
    ):
        status, answer = await server.post(job_id, **values)
        assert (status, answer["name"]) == (201, f"Sunny ({name})")
        assert answer["filename"] == f"Sunny ({name}).mp3".replace(":", ".")
        content = await server.download(answer["url"])
        assert len(content) == answer["size"] and answer["expiresAt"] is not None
        (tmp_path / "file.mp3").write_bytes(content)
        with av.open(str(tmp_path / "file.mp3")) as container:
            assert container.metadata["title"] == answer["name"]
            assert container.metadata["comment"] == "mix of stems, separated with htdemucs by Stemify"
    for kind in ("flac", "wav"):
        status, answer = await server.post(job_id, format=kind)
        (tmp_path / "file").write_bytes(await server.download(answer["url"]))
        assert answer["filename"].endswith(kind) and samples_of(tmp_path / "file", tmp_path)[0].shape == (2, 3 * RATE)


async def test_karaoke_and_six_stems_are_mixed(server: MixServer, tmp_path: Path) -> None:
    karaoke = {"vocals": STEMS["vocals"], "instrumental": STEMS["other"]}
    job_id = await plant(tmp_path, karaoke, title="Sunny", kind="flac")
    mix = await server.mixed(job_id, tmp_path, gains={"vocals": 0})
    assert level_db(mix - karaoke["instrumental"], mix) < -120
    six = {**STEMS, "guitar": STEMS["bass"], "piano": STEMS["drums"]}
    job_id = await plant(tmp_path, six, title="Sunny", kind="flac")
    mix = await server.mixed(job_id, tmp_path, gains=dict.fromkeys(six, 0) | {"piano": 1, "guitar": 1})
    assert level_db(mix - six["piano"] - six["guitar"], mix) < -120


@pytest.mark.parametrize(
    ("kind", "values", "status", "words"),
    [
        ("mixes", {"gains": {"banjo": 1}}, 422, "no stem 'banjo'. Its stems are: vocals, drums, bass, other"),
        ("mixes", {"gains": {"drums": 4.01}}, 422, "from 0 to 4"),
        ("mixes", {"gains": {"drums": -0.1}}, 422, "from 0 to 4"),
        ("mixes", {"gains": {"drums": float("nan")}}, 422, "from 0 to 4"),
        ("mixes", {"gains": {"drums": "1"}}, 422, "from 0 to 4"),
        ("mixes", {"gains": {"drums": True}}, 422, "from 0 to 4"),
        ("mixes", {"pans": {"banjo": 1}}, 422, "no stem 'banjo'"),
        ("mixes", {"pans": {"drums": -1.1}}, 422, "from -1 (left) to 1 (right)"),
        ("mixes", {"gains": [1]}, 422, "from 0 to 4"),
        ("mixes", {"gains": dict.fromkeys(STEMS, 0)}, 422, "All stems are silent"),
        ("mixes", {"from": 2, "to": 2}, 422, "before the time to"),
        ("mixes", {"from": 3}, 422, "after the end of the song, which is 0:03 long"),
        ("mixes", {"from": 1, "to": 1.05}, 422, "at least 0.1 seconds"),
        ("mixes", {"from": -1}, 422, "0 or more"),
        ("mixes", {"to": float("inf")}, 422, "0 or more"),
        ("mixes", {"key": 12.5}, 422, "from -12 to 12"),
        ("mixes", {"tempo": 0.49}, 422, "from 0.5 to 1.5"),
        ("mixes", {"format": "../x"}, 422, "mp3, wav, flac"),
        ("mixes", {"gain": {}}, 422, "Unknown field 'gain'"),
        ("versions", {"key": 99}, 422, "from -12 to 12"),
        ("versions", {"gains": {}}, 422, "Unknown field 'gains'"),
    ],
)
async def test_hostile_parameters_are_refused(
    server: MixServer, tmp_path: Path, kind: str, values: dict[str, Any], status: int, words: str
) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny")
    found, answer = await server.post(job_id, kind, **values)
    assert (found, answer["error"]["code"]) == (status, "bad_mix") and words in answer["error"]["message"]
    assert not list((tmp_path / "jobs" / job_id).glob("m*")) and not (tmp_path / "mixing").exists()


async def test_mix_within_a_limit_is_fitted_by_its_own_length(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny", kind="wav")
    for tempo, part_s, bit_rate in ((0.5, None, 128_000), (1.0, 1.5, None)):
        request = MixRequest.from_user({"tempo": tempo, "to": part_s})
        file = await server.service.mix_within(job_id, request, 130_000, by="discord:1")
        assert file is not None and file.size <= 130_000 and file.bit_rate == bit_rate
        async with server.service.open_result_file(file) as path:
            shape = samples_of(path, tmp_path)[0].shape
        assert shape[1] == pytest.approx((part_s or 3) / tempo * RATE, abs=RATE / 10)
    assert await server.service.mix_within(job_id, MixRequest(), 20_000, by="discord:1") is None
