"""Another try of a kept song, and instant repeats, over HTTP with real audio."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import av
import pytest
import requests

from config.settings import Settings, load
from tests.fixtures.api_client import Client
from tests.fixtures.backend_server import served
from tests.fixtures.bot_process import ROOT
from tests.fixtures.ports import free_port
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

pytestmark = pytest.mark.timeout(400)
TOKEN = "a-token-of-good-length"


def settings_of(folder: Path, **limits: object) -> Settings:
    write_model(folder / "models")
    return load(
        data_dir=folder / "data",
        models_dir=folder / "models",
        web={"port": 0, "trusted_proxies": ["127.0.0.1"]},
        limits={"jobs_per_hour": 100, **limits},
        retention={"reuse_results": True},
        workers={"devices": ["cpu"], "threads": 1, "compile": False},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("again")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(settings_of(folder)) as url:
        yield url


@pytest.fixture
def client(url: str, folder: Path, request: pytest.FixtureRequest) -> Client:
    """Return a client with its own address."""
    number = zlib.crc32(request.node.name.encode()) % 250 + 1
    return Client(url, folder / "data", f"198.51.100.{number}")


@pytest.fixture
def song(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a song that no other test uses, as wav; a flac file beside it has the same samples."""
    for suffix in (".wav", ".flac"):
        make_song(tmp_path / f"Sunny{suffix}", seconds=2, seed=zlib.crc32(request.node.name.encode()) % 10_000)
    return tmp_path / "Sunny.wav"


def decoded_s(path: Path) -> float:
    with av.open(path) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def test_song_is_separated_again_without_upload(client: Client, song: Path) -> None:
    first = client.finished(client.send(song))
    answer = client.again(first["jobId"], outputFormat="flac", removeVocals=True)
    assert answer.json()["status"] == "pending" and answer.headers["Location"].endswith(answer.json()["jobId"])
    second = client.finished(answer)
    assert second["status"] == "completed", second
    stems = {name: stem for name, stem in second["result"]["stems"].items() if stem}
    assert set(stems) == {"vocals", "instrumental"}, "the new option"
    assert {stem["filename"] for stem in stems.values()} == {
        "Sunny - vocals - htdemucs.flac",
        "Sunny - instrumental - htdemucs.flac",
    }, "the kept title"
    assert client.request("DELETE", f"/api/jobs/{first['jobId']}").status_code == 204
    files = client.files(second["jobId"])
    assert "input" in files and decoded_s(files["Sunny - vocals - htdemucs.flac"]) == pytest.approx(2, abs=0.1)
    third = client.finished(client.again(second["jobId"], outputFormat="wav"))
    assert third["status"] == "completed", "the song of a deleted job is still that of the others"


def test_song_that_is_gone_gives_410(client: Client, song: Path) -> None:
    first = client.finished(client.send(song))
    client.files(first["jobId"])["input"].unlink()
    before = {path for path in client.data.rglob("*") if path.is_file() and "sqlite3" not in path.name}
    answer = client.again(first["jobId"], outputFormat="flac")
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "song_gone")
    assert answer.json()["error"]["message"].endswith("Send it again.")
    assert {path for path in client.data.rglob("*") if path.is_file() and "sqlite3" not in path.name} <= before


def test_bad_options_of_another_try_are_refused(client: Client, song: Path) -> None:
    first = client.finished(client.send(song))
    for options, code in (
        ({"model": "spleeter"}, "unknown_model"),
        ({"model": ["mini"]}, "bad_options"),
        ({"loudness": 3}, "bad_options"),
        ({"quality": "poor"}, "bad_options"),
    ):
        answer = client.again(first["jobId"], **options)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)
    answer = client.request("POST", f"/api/jobs/{first['jobId']}/again", data=b"[1]")
    assert answer.status_code == 400
    stranger = Client(client.url, client.data, "203.0.113.77")
    assert stranger.again(first["jobId"], outputFormat="flac").status_code == 403


def test_same_audio_is_answered_at_once_with_date(client: Client, song: Path) -> None:
    first = client.finished(client.send(song))
    answer = client.send(song.with_suffix(".flac"))
    assert answer.json()["status"] == "completed", "the same samples in another file"
    assert "separated with these options on " in answer.json()["message"]
    second = client.job(answer.json()["jobId"])
    assert second["status"] == "completed" and second["progress"] == 100 and second["jobId"] != first["jobId"]
    assert second["result"]["separatedAt"] == first["updatedAt"]
    assert second["result"]["trust"]["notes"][0].startswith("Separated on ")
    mine, theirs = client.files(second["jobId"]), client.files(first["jobId"])
    assert set(mine) == set(theirs)
    assert all(mine[name].samefile(theirs[name]) for name in theirs if name != "input"), "shared on the disk"
    link = urlsplit(second["result"]["stems"]["vocals"]["cdnUrl"])
    vocals = client.request("GET", f"{link.path}?{link.query}").content
    assert vocals == theirs["Sunny - vocals - htdemucs.mp3"].read_bytes()
    peaks = client.request("GET", f"/jobs/{second['jobId']}/peaks.json")
    assert peaks.status_code == 200 and peaks.json()["stems"]


def test_other_options_and_owners_are_separated(client: Client, song: Path) -> None:
    client.finished(client.send(song))
    assert client.send(song, normalize=True).json()["status"] == "pending"
    stranger = Client(client.url, client.data, "203.0.113.78")
    assert stranger.send(song).json()["status"] == "pending", "a result of another owner"


def test_repeat_and_original_are_deleted_independently(client: Client, song: Path) -> None:
    first, second, third = (client.finished(client.send(song)) for _ in range(3))
    links = [urlsplit(job["result"]["stems"]["drums"]["cdnUrl"]) for job in (first, second, third)]
    with client.request("GET", f"{links[1].path}?{links[1].query}", stream=True) as reading:
        assert client.request("DELETE", f"/api/jobs/{first['jobId']}").status_code == 204
        assert client.request("DELETE", f"/api/jobs/{second['jobId']}").status_code == 204
        assert len(reading.content) == second["result"]["stems"]["drums"]["size"], "it was read while it was deleted"
    assert client.request("GET", f"{links[1].path}?{links[1].query}").status_code == 404
    assert client.request("GET", f"{links[2].path}?{links[2].query}").status_code == 200
    assert client.send(song).json()["status"] == "completed", "a repeat of a repeat"
    assert client.request("DELETE", f"/api/jobs/{third['jobId']}").status_code == 204


def test_damaged_result_is_not_given_again(client: Client, song: Path) -> None:
    first = client.finished(client.send(song))
    files = client.files(first["jobId"])
    files["Sunny - bass - htdemucs.mp3"].unlink()
    answer = client.send(song)
    assert answer.json()["status"] == "pending"
    second = client.finished(answer)
    assert second["status"] == "completed" and set(client.files(second["jobId"])) == set(files)


def test_repeats_do_not_count_toward_the_quota(tmp_path: Path) -> None:
    make_song(tmp_path / "one.wav", seconds=1, seed=1)
    make_song(tmp_path / "two.wav", seconds=1, seed=2)
    make_song(tmp_path / "three.wav", seconds=1, seed=3)
    with served(settings_of(tmp_path, jobs_per_hour=2)) as url:
        client = Client(url, tmp_path / "data")
        first = client.finished(client.send(tmp_path / "one.wav"))
        for _ in range(3):
            assert client.send(tmp_path / "one.wav").json()["status"] == "completed"
        assert client.again(first["jobId"]).json()["status"] == "completed", "the same options"
        assert client.send(tmp_path / "two.wav").status_code == 202
        assert client.again(first["jobId"], normalize=True).status_code == 429, "another try counts"
        assert client.send(tmp_path / "three.wav").status_code == 429


def test_job_link_replaces_the_token(tmp_path: Path) -> None:
    make_song(tmp_path / "song.wav", seconds=1)
    settings = settings_of(tmp_path)
    settings = load(**{**settings.model_dump(), "web": {"port": 0, "api_tokens": [TOKEN]}})
    with served(settings) as url:
        owner, stranger = Client(url, tmp_path / "data", token=TOKEN), Client(url, tmp_path / "data")
        accepted = owner.send(tmp_path / "song.wav")
        page = urlsplit(accepted.links["alternate"]["url"]).query
        first = owner.finished(accepted)
        path = f"/api/jobs/{first['jobId']}/again"
        assert stranger.request("POST", path, json={"normalize": True}).status_code == 401
        assert stranger.request("POST", f"{path}?{page[:-2]}xx", json={"normalize": True}).status_code == 401
        answer = stranger.request("POST", f"{path}?{page}", json={"normalize": True})
        assert owner.finished(answer)["status"] == "completed"


_SERVER = """
import asyncio, os, signal, sys
from engine.storage.local import LocalStorage

copies, copy = [], LocalStorage.copy

async def copy_until_killed(self, source, key):
    done = await copy(self, source, key)
    copies.append(key)
    if len(copies) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

if sys.argv[1] == "killed":
    LocalStorage.copy = copy_until_killed
sys.argv = ["engine", "serve"]
from engine.cli.main import main
sys.exit(main())
"""


@contextmanager
def server(folder: Path, mode: str) -> Iterator[Client]:
    """Run `engine serve` as a process; `mode` "killed" ends it with SIGKILL while a result is copied."""
    port = free_port()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("STEMIFY_")} | {
        "STEMIFY_DATA_DIR": str(folder / "data"),
        "STEMIFY_MODELS_DIR": str(folder / "models"),
        "STEMIFY_WEB__PORT": str(port),
        "STEMIFY_WORKERS__DEVICES": "cpu",
        "STEMIFY_WORKERS__THREADS": "1",
        "STEMIFY_WORKERS__COMPILE": "false",
        "STEMIFY_RETENTION__SWEEP_INTERVAL_S": "0.05",
        "STEMIFY_LOG__LEVEL": "WARNING",
    }
    process = subprocess.Popen([sys.executable, "-c", _SERVER, mode], cwd=ROOT, env=variables, start_new_session=True)
    client = Client(f"http://127.0.0.1:{port}", folder / "data")
    try:
        deadline = time.monotonic() + 200
        while True:
            assert process.poll() is None and time.monotonic() < deadline
            try:
                if requests.get(f"{client.url}/readyz", timeout=10).status_code == 200:
                    break
            except requests.ConnectionError:
                pass
            time.sleep(0.1)
        yield client
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def test_kill_during_a_repeat_leaves_nothing(tmp_path: Path) -> None:
    write_model(tmp_path / "models")
    make_song(tmp_path / "song.wav", seconds=1)
    with server(tmp_path, "killed") as client:
        first = client.finished(client.send(tmp_path / "song.wav"))
        with pytest.raises(requests.ConnectionError):
            client.send(tmp_path / "song.wav")
    folders = {path.name for path in (tmp_path / "data" / "jobs").iterdir()}
    (half,) = folders - {first["jobId"]}
    with closing(sqlite3.connect(tmp_path / "data" / "stemify.sqlite3")) as store:
        assert store.execute("SELECT id, status FROM jobs").fetchall() == [(first["jobId"], "completed")]
        store.execute("UPDATE deletions SET deleted_at = 0")  # an hour later
        store.commit()
    with server(tmp_path, "normal") as client:  # the sweeper runs all the time
        assert client.request("GET", f"/api/jobs/{half}").status_code == 404
        answers = [client.send(tmp_path / "song.wav").json() for _ in range(5)]
        assert [answer["status"] for answer in answers] == ["completed"] * 5
        deadline = time.monotonic() + 30
        while (tmp_path / "data" / "jobs" / half).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        whole = client.files(first["jobId"])
        assert all(set(client.files(answer["jobId"])) == set(whole) for answer in answers)
