"""The API in front of a real backend."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from config.settings import load
from tests.fixtures.backend_server import served
from tests.fixtures.songs import make_song
from tests.fixtures.stem_files import tracks
from tests.fixtures.tiny_models import write_model


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def url(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    write_model(models)
    loaded = load(data_dir=data_dir, models_dir=models)
    changed = {
        "web": loaded.web.model_copy(update={"port": 0, "trusted_proxies": ["127.0.0.1"]}),
        "workers": loaded.workers.model_copy(update={"devices": ["cpu"], "threads": 1, "compile": False}),
    }
    with served(loaded.model_copy(update=changed)) as url:
        yield url


def send(url: str, content: bytes, name: str = "song.mp3", *, address: str = "192.0.2.1", **options: object) -> Any:
    fields: Any = {"options": (None, json.dumps({"quality": "fast", **options})), "file": (name, io.BytesIO(content))}
    return requests.post(f"{url}/api/stemify", files=fields, headers={"X-Forwarded-For": address}, timeout=60)


def files_of_jobs(data_dir: Path) -> list[Path]:
    return [path for top in ("jobs", "scratch") for path in (data_dir / top).rglob("*") if path.is_file()]


def test_non_song_is_refused_and_leaves_nothing(url: str, data_dir: Path) -> None:
    before = files_of_jobs(data_dir)
    for content, status, code in [
        (b"", 422, "empty_input"),
        (b"Dear diary, today I was renamed to .mp3. " * 99, 415, "not_audio"),
        (b"ID3" + bytes(51 * 2**20), 413, "too_large"),
    ]:
        answer = send(url, content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert send(url, b"x", model="spleeter").json()["error"]["code"] == "unknown_model"
    link = requests.post(f"{url}/api/stemify", json={"youtubeUrl": "https://evil.example/watch?v=x"}, timeout=60)
    assert (link.status_code, link.json()["error"]["code"]) == (422, "bad_link")
    assert files_of_jobs(data_dir) == before


def test_stem_file_is_linked_in_result(url: str, tmp_path: Path) -> None:
    make_song(tmp_path / "song.wav", seconds=1, tags={"title": "Sunny"})
    song = (tmp_path / "song.wav").read_bytes()
    refused = send(url, song, outputFormat="stem", removeVocals=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "bad_options")
    assert refused.json()["error"]["message"].startswith("A stem file needs four stems")
    job_id = send(url, song, outputFormat="stem", model="htdemucs").json()["jobId"]
    with requests.get(f"{url}/api/jobs/{job_id}/events", stream=True, timeout=60) as events:
        assert any(b"id: over" in line for line in events.iter_lines())
    result = requests.get(f"{url}/api/jobs/{job_id}", timeout=10).json()["result"]
    stem_file = result["stemFile"]
    assert stem_file["filename"] == "Sunny - htdemucs.stem.m4a"
    assert result["stems"]["vocals"]["format"] == "mp3"
    assert result["fileSize"] == stem_file["size"] + sum(stem["size"] for stem in result["stems"].values() if stem)
    sent = requests.get(stem_file["cdnUrl"], timeout=10)
    (tmp_path / "song.stem.m4a").write_bytes(sent.content)
    for name, content_type in (("zipUrl", "application/zip"), ("waveformUrl", "image/png")):
        sent_too = requests.head(result[name], timeout=10)
        assert (sent_too.status_code, sent_too.headers["Content-Type"]) == (200, content_type)
    assert len(sent.content) == stem_file["size"] and len(tracks(tmp_path / "song.stem.m4a")) == 5


def test_sixth_song_in_an_hour_shows_retry_time(url: str, tmp_path: Path) -> None:
    make_song(tmp_path / "song.wav", seconds=0.2)
    song = (tmp_path / "song.wav").read_bytes()
    for _ in range(5):
        assert send(url, song, address="198.51.100.7").status_code == 202
    refused = send(url, song, address="198.51.100.7")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
    assert 0 < int(refused.headers["Retry-After"]) <= 3600
    assert send(url, song, address="198.51.100.8").status_code == 202


def test_delete_cancels_running_job_and_removes_files(url: str, data_dir: Path, tmp_path: Path) -> None:
    make_song(tmp_path / "long.wav", seconds=50, channels=1)
    mine = {"X-Forwarded-For": "203.0.113.5"}
    job_id = send(url, (tmp_path / "long.wav").read_bytes(), address="203.0.113.5").json()["jobId"]
    with requests.get(f"{url}/api/jobs/{job_id}/events", stream=True, timeout=60) as events:
        for line in events.iter_lines():
            if b'"separating"' in line:
                break
    assert requests.delete(f"{url}/api/jobs/{job_id}", timeout=10).status_code == 403, "the job has another owner"
    answer = requests.delete(f"{url}/api/jobs/{job_id}", headers=mine, timeout=10)
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert requests.delete(f"{url}/api/jobs/{job_id}", headers=mine, timeout=10).status_code == 204
    assert not [path for path in files_of_jobs(data_dir) if job_id in str(path)]
    assert requests.get(f"{url}/api/jobs/{job_id}", timeout=10).status_code == 404


def test_backend_is_ready_and_has_metrics(url: str) -> None:
    ready = requests.get(f"{url}/readyz", timeout=10)
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert "stemify_worker_up{" in requests.get(f"{url}/metrics", timeout=10).text
