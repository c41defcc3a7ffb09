"""Object storage on a real S3 server that checks signatures (Swift on loopback)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import obstore
import pytest
from yarl import URL

from engine.errors import Cancelled, NotFound, StorageAccessDenied, StorageFailed, StorageUnavailable
from engine.jobs.entity import new_job_id
from engine.storage.object_store import ObjectStorage
from tests.fakes.object_store import BUCKET, S3Server, object_storage, s3_server

PART = 5 * 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("swift") / "swift") as server:
        server.create_bucket()
        yield server


@pytest.fixture
def storage(server: S3Server, tmp_path: Path) -> ObjectStorage:
    return object_storage(server, tmp_path / "data")


@pytest.fixture
def job() -> str:
    return new_job_id()


async def stream(*blocks: bytes) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


def keys(storage: ObjectStorage, job: str) -> set[str]:
    return {key.removeprefix(f"jobs/{job}/") for key in storage._bucket.keys(f"jobs/{job}")}


def result(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return folder


async def test_probed_upload_goes_through_bucket_to_worker(storage: ObjectStorage, job: str, tmp_path: Path) -> None:
    key, song = f"jobs/{job}/input", os.urandom(3_000_000)
    assert await storage.receive(stream(song[:1000], song[1000:]), key, 10**7) == len(song)
    assert storage.local_path(key).read_bytes() == song and await storage.size(key) is None
    await storage.upload(key)
    assert not storage.local_path(key).exists() and await storage.size(key) == len(song)
    assert storage.fetch(key, tmp_path / "scratch").read_bytes() == song
    other = new_job_id()
    assert await storage.copy(key, f"jobs/{other}/input") and not await storage.copy(f"{key}x", f"jobs/{other}/x")
    await storage.delete_job(job)
    assert await storage.size(key) is None and await storage.size(f"jobs/{other}/input") == len(song)
    with pytest.raises(NotFound):
        storage.fetch(key, tmp_path / "scratch")


async def test_large_result_is_uploaded_in_parts_with_progress(
    storage: ObjectStorage, job: str, tmp_path: Path
) -> None:
    stem, seen = os.urandom(2 * PART + 12345), list[float]()
    out = result(tmp_path / "out", **{"Für Elise – vocals_wav": stem, "peaks_json": b"{}"})
    storage.publish_folder(out, f"jobs/{job}/a1", seen.append)
    assert keys(storage, job) == {"a1/Für Elise – vocals.wav", "a1/peaks.json"}
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) > 10
    key = f"jobs/{job}/a1/Für Elise – vocals.wav"
    assert b"".join([block async for block in (await storage.open(key)).stream()]) == stem
    for start, end in ((0, 1), (PART - 3, PART + 4), (len(stem) - 5, None), (7, 10**9), (len(stem), None), (9, 3)):
        assert b"".join([block async for block in (await storage.open(key)).stream(start, end)]) == stem[start:end]
    async with storage.open_file(key) as path:
        assert path.name == "Für Elise – vocals.wav" and path.read_bytes() == stem
    assert not path.exists()


async def test_published_objects_are_never_overwritten(storage: ObjectStorage, job: str, tmp_path: Path) -> None:
    storage.publish_folder(result(tmp_path / "one", peaks_json=b"1", a_wav=os.urandom(PART + 1)), f"jobs/{job}/a1")
    before = (await storage.open(f"jobs/{job}/a1/a.wav")).etag
    for late in (result(tmp_path / "two", peaks_json=b"2"), result(tmp_path / "three", a_wav=os.urandom(PART + 9))):
        with pytest.raises(StorageFailed):
            storage.publish_folder(late, f"jobs/{job}/a1")
    assert (await storage.open(f"jobs/{job}/a1/a.wav")).etag == before
    assert b"".join([block async for block in (await storage.open(f"jobs/{job}/a1/peaks.json")).stream()]) == b"1"


async def test_lost_response_is_safe_to_retry(storage: ObjectStorage, job: str, tmp_path: Path) -> None:
    out = result(tmp_path / "out", peaks_json=b"the same")
    storage.publish_folder(out, f"jobs/{job}/a1")
    storage.publish_folder(out, f"jobs/{job}/a1")


def test_cancelled_upload_leaves_nothing(storage: ObjectStorage, job: str, tmp_path: Path, server: S3Server) -> None:
    out = result(tmp_path / "out", a_wav=os.urandom(3 * PART))

    def stop(fraction: float) -> None:
        if fraction > 0.7:
            assert server.unfinished_uploads() == [f"songs/jobs/{job}/a1/a.wav"]
            raise Cancelled

    with pytest.raises(Cancelled):
        storage.publish_folder(out, f"jobs/{job}/a1", stop)
    assert keys(storage, job) == set() and server.unfinished_uploads() == []


async def test_only_files_of_the_job_are_deleted(storage: ObjectStorage, job: str) -> None:
    decoys = ["models/weights.th", f"jobs/{job}.bak/input", f"jobs/{job}/notes.txt", f"jobs/x{job}/input"]
    own = [f"jobs/{job}/input", f"jobs/{job}/a1/v.mp3", f"jobs/{job}/a2/v.mp3", f"jobs/{job}/a12/v.mp3"]
    for key in (*decoys, *own):
        obstore.put(storage._bucket._store, key, b"x")
    await storage.tidy_job(job, keep_attempt=2, keep_input=True)
    assert keys(storage, job) == {"notes.txt", "input", "a2/v.mp3"}
    assert job in storage.jobs_on_disk() and storage.has_result(job) and not storage.has_result(new_job_id())
    await storage.tidy_job(job, keep_attempt=None, keep_input=False)
    assert keys(storage, job) == {"notes.txt"} and not storage.has_result(job)
    await storage.tidy_job("../models", keep_attempt=None, keep_input=False)
    for refused in ("", "models", "jobs", f"jobs/{job}/input", f"jobs/{job}.bak"):
        with pytest.raises(ValueError, match="not a job folder"):
            await storage.delete_tree(refused)
    await storage.delete_job(job)
    there = {meta["path"] for batch in obstore.list(storage._bucket._store) for meta in batch}
    assert {"models/weights.th", f"jobs/{job}.bak/input", f"jobs/x{job}/input"} <= there
    assert keys(storage, job) == set()


async def test_presigned_link_opens_only_its_object_until_expiry(
    server: S3Server, storage: ObjectStorage, job: str, tmp_path: Path
) -> None:
    storage.publish_folder(result(tmp_path / "out", **{"a b#ü_mp3": b"sound", "other_mp3": b"more"}), f"jobs/{job}/a1")
    link = await storage.redirect(f"jobs/{job}/a1/a b#ü.mp3")
    assert link is not None and link.startswith(server.url)
    signature = link.rpartition("X-Amz-Signature=")[2]
    async with aiohttp.ClientSession() as http:

        async def status(url: str, method: str = "GET") -> int:
            async with http.request(method, URL(url, encoded=True)) as response:
                return response.status

        async with http.get(link, headers={"Range": "bytes=1-3"}) as response:
            assert (response.status, await response.read()) == (206, b"oun")
            assert response.content_type == "audio/mpeg"
            assert response.headers["Content-Disposition"].endswith("filename*=UTF-8''a%20b#%C3%BC.mp3")
        assert await status(link) == 200
        assert await status(link.replace(signature, signature[::-1])) == 403
        assert await status(link.replace("a%20b%23%C3%BC.mp3", "other.mp3")) == 403
        assert await status(link.replace("X-Amz-Expires=300", "X-Amz-Expires=3000")) == 403
        assert await status(link, "PUT") == 403 and await status(link, "DELETE") == 403
        brief = object_storage(server, tmp_path / "brief", redirect_lifetime_s=1)
        soon_over = await brief.redirect(f"jobs/{job}/a1/other.mp3")
        assert soon_over is not None and await status(soon_over) == 200
        async with asyncio.timeout(60):
            while await status(soon_over) == 200:
                await asyncio.sleep(0.3)
        assert await status(soon_over) == 403


async def test_links_use_public_endpoint(server: S3Server, tmp_path: Path, job: str) -> None:
    storage = object_storage(server, tmp_path / "data", public_endpoint="https://s3.example.org")
    link = await storage.redirect(f"jobs/{job}/a1/x.mp3")
    assert link is not None and link.startswith(f"https://s3.example.org/{BUCKET}/songs/jobs/{job}/a1/x.mp3?")
    assert await object_storage(server, tmp_path / "data", redirect=False).redirect("jobs/x") is None


async def test_denied_access_raises_at_start(server: S3Server, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"secret_access_key": "wrong"}, "credentials"),
        ({"url": "s3://nowhere"}, "bucket"),
        ({"url": "s3://no"}, "credentials"),
    ]
    for changes, words in wrong:
        with pytest.raises(StorageAccessDenied, match=words) as raised:
            await object_storage(server, tmp_path / "data", **changes).prepare()
        assert "wrong" not in f"{raised.value.detail}" and not raised.value.transient


async def test_stalled_store_does_not_block_disk(server: S3Server, tmp_path: Path, job: str) -> None:
    storage = object_storage(server, tmp_path / "data", patience_s=1.0, request_timeout_s=1.0)
    server.pause()
    try:
        asked = [asyncio.ensure_future(storage.size(f"jobs/{job}/a1/{number}")) for number in range(40)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(tmp_path.exists)
        assert not any(each.done() for each in asked), "the disk waited for the store"
        assert {type(each) for each in await asyncio.gather(*asked, return_exceptions=True)} == {StorageUnavailable}
    finally:
        server.resume()


async def test_quick_requests_time_out_before_transfers(
    server: S3Server, tmp_path: Path, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.storage.bucket._ANSWER_S", 0.5)
    storage = object_storage(server, tmp_path / "data", patience_s=0.5, request_timeout_s=3600.0)
    await storage.receive(stream(b"song"), f"jobs/{job}/input", 100)
    server.pause()
    try:
        async with asyncio.timeout(60):
            for ask in (storage.size(f"jobs/{job}/a1/x"), storage.upload(f"jobs/{job}/input"), storage.delete_job(job)):
                with pytest.raises(StorageUnavailable):
                    await ask
    finally:
        server.resume()


async def test_stalled_storage_times_out_and_recovers(server: S3Server, tmp_path: Path, job: str) -> None:
    storage = object_storage(server, tmp_path / "data", patience_s=1.0, request_timeout_s=1.0)
    out = result(tmp_path / "out", peaks_json=b"{}", a_wav=os.urandom(2 * PART))
    server.pause()
    try:
        with pytest.raises(StorageUnavailable):
            await storage.size(f"jobs/{job}/input")
        await storage.prepare()  # the bot starts all the same
    finally:
        server.resume()
    patient = object_storage(server, tmp_path / "data", patience_s=30.0)
    server.stop("proxy")
    back = threading.Timer(1.0, server.start, ["proxy"])
    back.start()
    patient.publish_folder(out, f"jobs/{job}/a1")
    back.join()
    assert keys(patient, job) == {"a1/peaks.json", "a1/a.wav"}
