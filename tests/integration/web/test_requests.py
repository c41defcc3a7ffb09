"""Idempotency keys, ETags, HEAD, and what the API says about models and limits, before a real backend."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests

from config.settings import load
from tests.fixtures.backend_server import served
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

PER_HOUR = 3
_numbers = count(1)


@dataclass
class Client:
    """A client at one address with its own song."""

    url: str
    song: bytes
    address: str

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> requests.Response:
        headers = {"X-Forwarded-For": self.address, **(headers or {})}
        return requests.request(method, f"{self.url}{path}", headers=headers, timeout=60, **more)

    def send(self, key: str, song: bytes | None = None, name: str = "song.wav", **options: object) -> requests.Response:
        fields: Any = {"file": (name, io.BytesIO(song or self.song)), "options": (None, json.dumps(options))}
        return self.request("POST", "/api/stemify", {"Idempotency-Key": key}, files=fields)

    def limits(self) -> Any:
        return self.request("GET", "/api/limits").json()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("requests")
    write_model(folder / "models")
    settings = load(
        data_dir=folder / "data",
        models_dir=folder / "models",
        web={"port": 0, "trusted_proxies": ["127.0.0.1"]},
        limits={"jobs_per_hour": PER_HOUR},
        workers={"devices": ["cpu"], "threads": 1, "compile": False},
    )
    with served(settings) as url:
        yield url


@pytest.fixture
def client(url: str, tmp_path: Path) -> Client:
    make_song(tmp_path / "song.wav", seconds=0.5)
    return Client(url, (tmp_path / "song.wav").read_bytes(), f"192.0.2.{next(_numbers)}")


def test_same_key_gives_the_same_job(client: Client) -> None:
    first = client.send("one", quality="fast")
    assert first.status_code == 202
    for _ in range(PER_HOUR):
        again = client.send("one", quality="fast")
        assert again.status_code == 202 and again.json()["jobId"] == first.json()["jobId"]
    assert client.limits()["jobsLeft"] == PER_HOUR - 1, "the quota is used once"
    assert client.send("two", quality="fast").json()["jobId"] != first.json()["jobId"]
    other = Client(client.url, client.song, "198.51.100.99")
    assert other.send("one", quality="fast").json()["jobId"] != first.json()["jobId"], "keys belong to their owner"


def test_key_with_another_body_is_refused(client: Client) -> None:
    assert client.send("one", quality="fast").status_code == 202
    for answer in (
        client.send("one", quality="best"),
        client.send("one", client.song + b"\0", quality="fast"),
        client.send("one", name="other.wav", quality="fast"),
        client.request(
            "POST", "/api/stemify", {"Idempotency-Key": "one"}, json={"youtubeUrl": "https://youtu.be/dQw4w9WgXcQ"}
        ),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "key_reused")
    assert client.limits()["jobsLeft"] == PER_HOUR - 1


def test_known_key_works_without_quota(client: Client) -> None:
    keys = [f"key {number}" for number in range(PER_HOUR)]
    answers = [client.send(key) for key in keys]
    jobs = [answer.json().get("jobId", answer.text) for answer in answers]
    assert client.send("late").status_code == 429
    assert [client.send(key).json()["jobId"] for key in keys] == jobs


def test_parallel_requests_with_one_key_make_one_job(client: Client) -> None:
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda _: client.send("one"), range(2)))
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.json()["jobId"] for answer in answers}) == 1
    assert client.limits()["jobsLeft"] == PER_HOUR - 1


def test_key_of_a_link_and_of_a_deleted_job(client: Client) -> None:
    body = {"youtubeUrl": "https://youtu.be/dQw4w9WgXcQ", "options": {"quality": "fast"}}
    headers = {"Idempotency-Key": "link"}
    jobs = [client.request("POST", "/api/stemify", headers, json=body).json()["jobId"] for _ in range(3)]
    assert len(set(jobs)) == 1
    while client.request("DELETE", f"/api/jobs/{jobs[0]}").status_code == 200:  # the first one cancels
        time.sleep(0.05)
    assert client.request("POST", "/api/stemify", headers, json=body).json()["jobId"] != jobs[0]


@pytest.mark.parametrize("key", ["", "x" * 256, "t\u00e4st"])
def test_bad_key_is_refused(client: Client, key: str) -> None:
    answer = client.send(key.encode().decode("latin-1"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


def test_limits_count_the_jobs_left(client: Client) -> None:
    assert client.limits() == {
        "inputBytes": 52428800,
        "inputDurationS": 600.0,
        "jobsPerHour": PER_HOUR,
        "jobsLeft": PER_HOUR,
        "retryAfterS": 0,
    }
    for number in range(PER_HOUR):
        assert client.send(str(number)).status_code == 202
    spent = client.limits()
    assert spent["jobsLeft"] == 0 and 3500 < spent["retryAfterS"] <= 3600


def test_models_have_stems_cost_and_state(client: Client) -> None:
    models = {model["name"]: model for model in client.request("GET", "/api/models").json()["models"]}
    assert models["htdemucs"]["stems"] == ["vocals", "drums", "bass", "other"]
    assert models["htdemucs_6s"]["stems"] == ["vocals", "drums", "bass", "guitar", "piano", "other"]
    assert models["htdemucs"]["relativeCost"] == 1 and models["htdemucs_ft"]["relativeCost"] == 4
    assert models["mini"]["downloaded"] and models["mini"]["usable"] and models["mini"]["sizeBytes"] > 10**6
    assert not models["htdemucs_ft"]["downloaded"] and models["htdemucs_ft"]["sizeBytes"] is None
    assert models["mini"]["licence"] == "MIT" and models["mini"]["measuredCost"] is None
    assert "issues/327" in models["htdemucs"]["licenceSource"] and not models["htdemucs"]["gpuAdvisable"]
    vocals = models["melband_vocals"]
    assert vocals["stems"] == ["vocals", "instrumental"] and vocals["relativeCost"] > 6 and vocals["gpuAdvisable"]
    assert vocals["licence"] == "MIT" and vocals["downloadBytes"] == 912_885_624 and not vocals["downloaded"]
    assert not models["mdx_extra_q"]["usable"] and "diffq" in models["mdx_extra_q"]["reason"]


def test_head_answers_like_get(client: Client) -> None:
    job_id = client.send("one").json()["jobId"]
    client.request("GET", f"/api/jobs/{job_id}/events")  # until it has ended
    for path in (
        f"/api/jobs/{job_id}",
        f"/api/jobs/{job_id}/events",
        f"/api/jobs/{job_id}/stems.zip",
        "/api/openapi.json",
        "/api/models",
        "/api/limits",
    ):
        head, get = client.request("HEAD", path), client.request("GET", path)
        assert (head.status_code, head.content) == (200, b"")
        changing = {"Date", "Transfer-Encoding", "Content-Length"} if path.endswith("/events") else {"Date"}
        assert {name: head.headers[name] for name in head.headers if name not in changing} == {
            name: get.headers[name] for name in get.headers if name not in changing
        }


def test_etag_changes_with_the_job(client: Client) -> None:
    job_id = client.send("one").json()["jobId"]
    before = client.request("GET", f"/api/jobs/{job_id}").headers["ETag"]
    client.request("GET", f"/api/jobs/{job_id}/events")  # until it has ended
    after = client.request("GET", f"/api/jobs/{job_id}", {"If-None-Match": before})
    assert after.status_code == 200 and after.headers["ETag"] != before
    same = client.request("GET", f"/api/jobs/{job_id}", {"If-None-Match": after.headers["ETag"]})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", after.headers["ETag"])
