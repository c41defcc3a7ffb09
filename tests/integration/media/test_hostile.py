"""Hostile songs and names, sent to the web server of a whole backend with a tiny model.

Each is separated, or refused with a message that says what to do. Thousands of damaged files are in tests.fuzz_media.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import re
import tarfile
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

from config.settings import load
from engine.media.decode import decode
from tests.fixtures.backend_server import served
from tests.fixtures.songs import make_song, silence, tune
from tests.fixtures.tiny_models import write_model

RESPONSE_TIMEOUT_S = 60  # generous, for busy machines


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def url(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    write_model(models)
    loaded = load(data_dir=data_dir, models_dir=models)
    changed = {
        "web": loaded.web.model_copy(update={"port": 0}),
        "workers": loaded.workers.model_copy(update={"devices": ["cpu"], "threads": 1, "compile": False}),
        "limits": loaded.limits.model_copy(update={"jobs_per_hour": 1000, "queued_per_user": 100}),
    }
    with served(loaded.model_copy(update=changed)) as url:
        yield url


def send(url: str, content: bytes, name: str = "song", **options: object) -> Any:
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode("utf-8", "surrogatepass")
    options_json = json.dumps({"quality": "fast", "outputFormat": "flac", **options}).encode()
    body = (
        b"--b\r\n"
        + head
        + content
        + b'\r\n--b\r\nContent-Disposition: form-data; name="options"\r\n\r\n'
        + options_json
    )
    return requests.post(
        f"{url}/api/stemify",
        data=body + b"\r\n--b--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        timeout=RESPONSE_TIMEOUT_S,
    )


def wait_for_job(url: str, response: Any) -> dict[str, Any]:
    """Wait for a job and return it."""
    assert response.status_code == 202, response.text
    give_up_at = time.monotonic() + 100
    while time.monotonic() < give_up_at:
        job: dict[str, Any] = requests.get(f"{url}/api/jobs/{response.json()['jobId']}", timeout=10).json()
        if job["status"] in ("completed", "failed"):
            return job
        time.sleep(0.1)
    raise AssertionError("the job did not end")


def stems_of(job: dict[str, Any], tmp_path: Path) -> dict[str, NDArray[np.float32]]:
    """Download every stem as (channels, samples)."""
    assert job["status"] == "completed", job.get("error")
    stems = {}
    for name, info in job["result"]["stems"].items():
        if info is None:
            continue
        response = requests.get(info["cdnUrl"], timeout=30)
        assert response.status_code == 200
        (tmp_path / "stem").write_bytes(response.content)
        facts = decode(tmp_path / "stem", tmp_path / "raw", max_duration_s=600)
        stems[name] = np.fromfile(tmp_path / "raw", "<f4").reshape(-1, facts.channels).T
    return stems


def not_finite() -> NDArray[np.float32]:
    samples = tune(1)
    samples[0, 1000:1010], samples[1, 5000], samples[0, 9000], samples[1, 9001] = np.nan, np.inf, -np.inf, 3e38
    return samples


ODD: dict[str, tuple[Callable[[Path], object], float]] = {
    "one sample": (lambda path: make_song(path, samples=silence(1)[:, :1]), 1 / 44100),
    "NaN and infinity": (lambda path: make_song(path, samples=not_finite(), bits="f32"), 1),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_song_gives_finite_stems_of_its_length(url: str, tmp_path: Path, name: str) -> None:
    make, seconds = ODD[name]
    make(tmp_path / "song.wav")
    stems = stems_of(wait_for_job(url, send(url, (tmp_path / "song.wav").read_bytes())), tmp_path)
    assert set(stems) == {"vocals", "drums", "bass", "other"}
    for samples in stems.values():
        assert samples.shape == (2, max(1, round(seconds * 44100)))
        assert np.isfinite(samples).all() and np.abs(samples).max() <= 1


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("song.mp3", bytes(64 << 20))


def tarred(path: Path) -> None:
    make_song(path.with_name("song.mp3"), seconds=1)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(path.with_name("song.mp3"), "song.mp3")


def ten_hours_stating_three_seconds(path: Path) -> None:
    """Write 36 MB of 8 kbit/s frames behind a header that counts only the first few."""
    make_song(path, container="mp3", codec="libmp3lame", seconds=3, sample_rate=8000, channels=1, bit_rate=8000)
    data = path.read_bytes()
    frame_bytes = 72
    body = data[data.index(b"Info") :]
    body = body[body.index(b"\xff\xe3") :]
    times = 10 * 3600 * 8000 // 576 * frame_bytes // len(body) + 1
    path.write_bytes(data + body * times)
    assert b"Info" in data and 30 << 20 < path.stat().st_size < 50 << 20


NONE: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "zip bomb": (zipped, 415, "not an audio file"),
    "gzip bomb": (lambda path: path.write_bytes(gzip.compress(bytes(64 << 20))), 415, "not an audio file"),
    "xz bomb": (lambda path: path.write_bytes(lzma.compress(bytes(20 << 20))), 415, "not an audio file"),
    "a song in an archive": (tarred, 415, "not an audio file"),
    "no sample": (lambda path: make_song(path.with_suffix(".wav"), samples=silence(0)).tofile(path), 422, "empty"),
    "ten hours that say three seconds": (ten_hours_stating_three_seconds, 422, "longer than 10:00"),
}


@pytest.mark.parametrize("name", NONE)
def test_non_song_is_refused_at_once_with_next_step(url: str, data_dir: Path, tmp_path: Path, name: str) -> None:
    make, status, words = NONE[name]
    before = [path for path in data_dir.rglob("*") if path.is_file() and "sqlite" not in path.name]
    make(tmp_path / "song")
    response = send(url, (tmp_path / "song").read_bytes())
    message = response.json()["error"]["message"]
    assert response.status_code == status and words in message
    assert re.search(r"\b(send|export|upload|cut)\b", message, re.IGNORECASE)
    assert [path for path in data_dir.rglob("*") if path.is_file() and "sqlite" not in path.name] == before


# Names.

NAMES = [
    "../../../../etc/passwd.mp3",
    "..%2f..%2fetc%2fpasswd",
    "C:\\Windows\\system32\\song.mp3",
    "x" * 300 + ".mp3",
    "愛" * 200 + ".mp3",
    "song\u202e3pm.exe",
    "@everyone **loud** <script>alert(1)</script> [a](http://evil.example).mp3",
    "CON.mp3",
    ".htaccess",
    "-rf ~",
    "lone \ud800 surrogate.mp3",
    "line%0d%0aSet-Cookie: a=b.mp3",
]


@pytest.fixture(scope="module")
def plain_song(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("songs") / "song.wav"
    make_song(path, seconds=0.3)
    return path.read_bytes()


def test_file_names_are_safe_in_paths_and_headers(url: str, data_dir: Path, tmp_path: Path, plain_song: bytes) -> None:
    make_song(tmp_path / "tagged.flac", seconds=0.3, tags={"title": "../../../tmp/t\u202e", "artist": "a\nb"})
    outside = {path for path in data_dir.parent.rglob("*") if data_dir not in path.parents}
    answers = [send(url, plain_song, name) for name in NAMES]
    answers.append(send(url, (tmp_path / "tagged.flac").read_bytes()))
    for name, response in zip([*NAMES, "tagged"], answers, strict=True):
        job = wait_for_job(url, response)
        assert job["status"] == "completed", (name, job.get("error"))
        for stem, info in job["result"]["stems"].items():
            if info is None:
                continue
            filename = info["filename"]
            assert filename.isprintable() and not set(filename) & set('/\\<>:"|?*\0'), name
            assert len(filename.encode()) <= 255 and not filename.startswith((".", "-"))
            assert filename.endswith(f" - {stem} - htdemucs.flac")
            assert not any(unicodedata.bidirectional(each) in ("RLO", "LRO", "RLE", "LRE") for each in filename)
            assert filename in {path.name for path in (data_dir / "jobs" / response.json()["jobId"]).rglob("*")}
            sent = requests.get(info["cdnUrl"], timeout=30)
            assert sent.status_code == 200 and "Set-Cookie" not in sent.headers
        archive = requests.get(f"{url}/api/jobs/{response.json()['jobId']}/stems.zip", timeout=30)
        assert all("/" not in entry for entry in zipfile.ZipFile(io.BytesIO(archive.content)).namelist())
        page = requests.get(f"{url}/jobs/{response.json()['jobId']}", timeout=30).text
        assert "<script>alert" not in page
    assert {path for path in data_dir.parent.rglob("*") if data_dir not in path.parents} == outside


@pytest.mark.parametrize("name", ["nul\0.mp3", "tab\t\x07bell.mp3"])
def test_name_with_control_characters_is_refused(url: str, plain_song: bytes, name: str) -> None:
    response = send(url, plain_song, name)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_request")
    assert response.json()["error"]["message"].endswith(".")


def test_name_with_a_quote_ends_at_the_quote(url: str, plain_song: bytes) -> None:
    job = wait_for_job(url, send(url, plain_song, 'quote".mp3'))
    assert job["status"] == "completed"
    assert job["result"]["stems"]["vocals"]["filename"] == "quote - vocals - htdemucs.flac"


@pytest.mark.parametrize(
    "options",
    [
        {"segmentDuration": 0},
        {"segmentDuration": 1e308},
        {"segmentDuration": "NaN"},
        {"overlapDuration": -1},
        {"overlapDuration": 601},
        {"segmentDuration": 5, "overlapDuration": 5},
        {"model": "../../etc/passwd"},
        {"model": "x" * 10_000},
        {"quality": "best\0"},
        {"outputFormat": "exe"},
        {"normalize": "perhaps"},
    ],
)
def test_option_out_of_range_is_refused_by_name(url: str, plain_song: bytes, options: dict[str, Any]) -> None:
    response = send(url, plain_song, **options)
    assert response.status_code == 422 and response.json()["error"]["code"] in ("bad_options", "unknown_model")
    assert len(response.json()["error"]["message"]) < 400
