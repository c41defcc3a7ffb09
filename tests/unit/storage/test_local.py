"""Local storage: safe keys, atomic writes, reads, copies."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.errors import DiskFull, NotFound, StorageFailed, TooLarge
from engine.jobs.entity import new_job_id
from engine.storage import disk
from engine.storage.local import LocalStorage
from tests.fixtures.local_files import JOB, KEY, files, put


async def stream(*blocks: bytes, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block
    if then is not None:
        raise then


async def read(storage: LocalStorage, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([block async for block in (await storage.open(key)).stream(start, end)])


# Keys.

SEGMENT = st.one_of(
    st.sampled_from(
        ["..", ".", "", "jobs", "etc", "passwd", "link", "~", "\0", "a\0b", "x" * 300, "ü" * 200, "\udce4"]
    ),
    st.text(max_size=12),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SEGMENT, min_size=1, max_size=6).map("/".join))
@example("/etc/passwd")
@example("../x")
@example("jobs/../../x")
@example("link/x")
@example("")
def test_key_outside_root_is_not_found(storage: LocalStorage, key: str) -> None:
    link = storage.root / "link"
    if not link.is_symlink():
        link.symlink_to("/etc")
    try:
        path = storage.local_path(key)
    except NotFound:
        return
    assert path.is_relative_to(storage.root) and path != storage.root
    assert path.resolve() == path and ".." not in path.parts
    assert str(path.relative_to(storage.root)) == key


@pytest.mark.parametrize(
    "name",
    [
        "Song - vocals.mp3",
        "100% #1 ?x=y {a} [b] ~'\".mp3",
        "日本語 – ü.flac",
        "@everyone.mp3",
        "a\u202eb.mp3",
        "-rf",
        " .wav",
        "%2e%2e",
    ],
)
async def test_unusual_names_are_kept(storage: LocalStorage, name: str) -> None:
    key = f"jobs/{JOB}/a1/{name}"
    await storage.receive(stream(b"abc"), key, 10)
    assert (storage.root / key).read_bytes() == b"abc"
    assert await storage.size(key) == 3
    assert await read(storage, key) == b"abc"


@pytest.mark.parametrize("where", ["jobs", f"jobs/{JOB}", KEY])
async def test_symbolic_link_is_not_followed(storage: LocalStorage, tmp_path: Path, where: str) -> None:
    secret = tmp_path / "secret"
    (secret / JOB).mkdir(parents=True)
    for name in (f"{JOB}/input", "input"):
        (secret / name).write_text("secret")
    link = storage.root / where
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(secret / "input" if where == KEY else secret)
    with pytest.raises(NotFound):
        storage.local_path(KEY)
    with pytest.raises(NotFound):
        await read(storage, KEY)
    assert await storage.size(KEY) is None
    with pytest.raises(NotFound):
        await storage.receive(stream(b"x"), KEY, 10)
    await storage.delete_job(JOB)
    await storage.tidy_job(JOB, keep_attempt=None, keep_input=False)
    assert (secret / "input").read_text() == (secret / JOB / "input").read_text() == "secret"
    assert link.is_symlink() == (where != KEY)  # a link inside the job's folder is deleted, its target is not


# Receiving.


async def test_receive_writes_stream_to_file(storage: LocalStorage) -> None:
    blocks = [os.urandom(size) for size in (0, 1, 700_000, 700_000, 3)]
    assert await storage.receive(stream(*blocks), KEY, 2_000_000) == 1_400_004
    assert (storage.root / KEY).read_bytes() == b"".join(blocks)
    assert files(storage) == {"jobs", f"jobs/{JOB}", KEY}


async def test_max_bytes_is_exact(storage: LocalStorage) -> None:
    assert await storage.receive(stream(b"12345", b"67890"), KEY, 10) == 10
    with pytest.raises(TooLarge):
        await storage.receive(stream(b"12345", b"678901"), f"jobs/{new_job_id()}/input", 10)
    assert len(files(storage)) == 3


async def test_endless_stream_stops_at_max_bytes(storage: LocalStorage) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1000
            yield bytes(1000)

    with pytest.raises(TooLarge):
        await storage.receive(endless(), KEY, 5_000_000)
    assert taken <= 5_001_000
    assert files(storage) == set()


@pytest.mark.parametrize("problem", [RuntimeError("the sender left"), asyncio.CancelledError(), ConnectionResetError()])
async def test_failed_stream_leaves_no_file(storage: LocalStorage, problem: BaseException) -> None:
    with pytest.raises((type(problem), StorageFailed)):
        await storage.receive(stream(bytes(3_000_000), then=problem), KEY, 10**9)
    assert files(storage) == set()


async def test_failed_stream_leaves_existing_file(storage: LocalStorage) -> None:
    put(storage, KEY, b"old")
    with pytest.raises(TooLarge):
        await storage.receive(stream(b"too much"), KEY, 3)
    assert files(storage) == {"jobs", f"jobs/{JOB}", KEY}
    assert (storage.root / KEY).read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, StorageFailed)]
)
async def test_full_disk_raises_and_leaves_nothing(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def full(_file: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk, "sync", full)
    with pytest.raises(kind):
        await storage.receive(stream(b"abc"), KEY, 10)
    assert files(storage) == set()


# Reading.


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.integers(0, 60), st.integers(0, 60) | st.none())
async def test_stream_range_equals_slice(storage: LocalStorage, start: int, end: int | None) -> None:
    content = bytes(range(50))
    put(storage, KEY, content)
    assert await read(storage, KEY, start, end) == content[start:end]


async def test_missing_file_is_not_found(storage: LocalStorage) -> None:
    assert await storage.size(KEY) is None
    with pytest.raises(NotFound):
        await read(storage, KEY)
    put(storage, f"{KEY}/file")
    assert await storage.size(KEY) is None  # a folder is not a file


# Publishing and copying.


async def test_publish_moves_file(storage: LocalStorage) -> None:
    source = put(storage, f"scratch/{JOB}-a1/vocals.mp3", b"music")
    await storage.publish(source, f"jobs/{JOB}/a1/vocals.mp3")
    assert not source.exists()
    assert (storage.root / f"jobs/{JOB}/a1/vocals.mp3").read_bytes() == b"music"
    with pytest.raises(StorageFailed):
        await storage.publish(source, f"jobs/{JOB}/a1/drums.mp3")


async def test_copy_survives_deletion_of_original(storage: LocalStorage) -> None:
    other = new_job_id()
    put(storage, KEY, b"song")
    assert await storage.copy(KEY, f"jobs/{other}/input")
    await storage.delete_job(JOB)
    assert files(storage) == {"jobs", f"jobs/{other}", f"jobs/{other}/input"}
    assert await read(storage, f"jobs/{other}/input") == b"song"
    assert not await storage.copy(KEY, f"jobs/{other}/again")
