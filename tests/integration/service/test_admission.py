"""Admission of songs over HTTP, with a backend without workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from config.settings import Settings, load
from engine.backend import backend
from engine.cli.main import main
from engine.service.service import StemService
from tests.fixtures.heavy_song import make_heavy_song
from tests.fixtures.small_disk import SmallDisk
from tests.fixtures.songs import make_song

FILE_HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="song.wav"\r\n\r\n'
OPTIONS = b'--b\r\nContent-Disposition: form-data; name="options"\r\n\r\n{"model": "mini"}\r\n'
END = b"\r\n--b--\r\n"
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
MB = 2**20


@dataclass
class Api:
    """The API of a running backend; each address is an owner."""

    url: str
    service: StemService
    settings: Settings

    async def post(self, body: bytes | AsyncIterator[bytes], address: str = "192.0.2.1") -> tuple[int, str]:
        """Send a form; return the status and the error code."""
        headers = {**FORM, "X-Forwarded-For": address}
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.url}/api/stemify", data=body, headers=headers) as response,
        ):
            answer = await response.json()
            return response.status, answer.get("error", {}).get("code", "")

    @asynccontextmanager
    async def stalled_uploads(self, uploads: list[tuple[bytes, str]]) -> AsyncIterator[None]:
        """Start an upload for each (bytes before the file, address) and stall it."""
        writers = []
        try:
            for before, address in uploads:
                _, writer = await self.request(f"Content-Length: {MB}", address)
                writers.append(writer)
                writer.write(before + FILE_HEAD + bytes(300_000))
                await writer.drain()
            await self.until_uploading(len(uploads))
            yield
        finally:
            for writer in writers:
                writer.close()

    async def request(self, header: str, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        head = (
            f"POST /api/stemify HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {address}\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\n{header}\r\n\r\n"
        )
        writer.write(head.encode())
        return reader, writer

    async def until_uploading(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(list((self.settings.data_dir / "jobs").glob("*/.input.*.part"))) != count:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def open_api(data_dir: Path, **limits: int) -> AsyncIterator[Api]:
    loaded = load(data_dir=data_dir)
    settings = loaded.model_copy(
        update={
            "web": loaded.web.model_copy(update={"port": 0, "trusted_proxies": ["127.0.0.1"]}),
            "limits": loaded.limits.model_copy(update={"free_disk_bytes": 0, **limits}),
            "workers": loaded.workers.model_copy(update={"devices": []}),
        }
    )
    async with backend(settings) as opened:
        assert opened.web_url is not None
        yield Api(opened.web_url, opened.service, settings)


@pytest.fixture
def song(tmp_path: Path) -> bytes:
    make_song(tmp_path / "song.wav", seconds=0.5)
    return (tmp_path / "song.wav").read_bytes()


def forms(song: bytes) -> dict[str, bytes]:
    return {
        "options first": OPTIONS + FILE_HEAD + song + END,
        "file first": FILE_HEAD + song + b"\r\n" + OPTIONS.removesuffix(b"\r\n") + END,
    }


async def test_third_upload_of_one_owner_is_refused_with_429(tmp_path: Path, song: bytes) -> None:
    uploads = [(b"", "192.0.2.1"), (OPTIONS, "192.0.2.1")]
    async with open_api(tmp_path / "data") as api, api.stalled_uploads(uploads):
        for form in forms(song).values():
            assert await api.post(form) == (429, "too_many_uploads")
        assert (await api.post(forms(song)["file first"], "192.0.2.2"))[0] == 202


async def test_seventeenth_upload_of_all_is_refused_with_429(tmp_path: Path, song: bytes) -> None:
    async with open_api(tmp_path / "data") as api:
        addresses = [f"192.0.2.{1 + number // 2}" for number in range(16)]
        async with api.stalled_uploads([(b"", address) for address in addresses]):
            assert await api.post(forms(song)["file first"], "198.51.100.1") == (429, "too_many_uploads")
        await api.until_uploading(0)
        assert (await api.post(forms(song)["file first"], "198.51.100.1"))[0] == 202


@pytest.mark.parametrize("declared", [f"Content-Length: {MB}", "Transfer-Encoding: chunked"])
async def test_spent_quota_is_refused_before_body(tmp_path: Path, song: bytes, declared: str) -> None:
    async with open_api(tmp_path / "data", jobs_per_hour=1) as api:
        assert (await api.post(forms(song)["file first"]))[0] == 202
        reader, writer = await api.request(f"{declared}\r\nExpect: 100-continue", "192.0.2.1")
        async with asyncio.timeout(60):
            assert await reader.readline() == b"HTTP/1.1 429 Too Many Requests\r\n"
        writer.close()


async def test_full_queue_is_refused_before_body(tmp_path: Path, song: bytes) -> None:
    async with open_api(tmp_path / "data", queued_per_user=1) as api:
        assert (await api.post(forms(song)["file first"]))[0] == 202
        reader, writer = await api.request(f"Content-Length: {MB}\r\nExpect: 100-continue", "192.0.2.1")
        async with asyncio.timeout(60):
            assert await reader.readline() == b"HTTP/1.1 429 Too Many Requests\r\n"
        writer.close()


@pytest.mark.parametrize("order", ["options first", "file first"])
async def test_parallel_uploads_leave_the_disk_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    reserve_bytes, size_bytes = 20 * MB, 6 * MB
    disk = SmallDisk(tmp_path, 40 * MB, monkeypatch)
    rest: asyncio.Event = asyncio.Event()

    async def body(form: bytes) -> AsyncIterator[bytes]:
        yield form[: 3 * MB]
        await rest.wait()
        yield form[3 * MB :]

    form = forms(bytes(5 * MB))[order]
    async with open_api(tmp_path / "data", free_disk_bytes=reserve_bytes, input_bytes=size_bytes) as api:
        sending = [asyncio.create_task(api.post(body(form), f"192.0.2.{number}")) for number in range(1, 9)]
        async with asyncio.timeout(60):
            while sum(task.done() for task in sending) < 5:
                await asyncio.sleep(0.02)
        rest.set()
        ends = [await task for task in sending]
    assert sorted(ends) == [(415, "not_audio")] * 3 + [(429, "short_of_room")] * 5
    assert disk.least_free_bytes >= reserve_bytes


async def test_upload_stops_when_disk_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SmallDisk(tmp_path, 40 * MB, monkeypatch)

    async def body() -> AsyncIterator[bytes]:
        yield FILE_HEAD + bytes(2 * MB)
        await api.until_uploading(1)
        (tmp_path / "stems of another job").write_bytes(bytes(17 * MB))
        for _ in range(4):
            yield bytes(MB)

    async with open_api(tmp_path / "data", free_disk_bytes=20 * MB, input_bytes=10 * MB) as api:
        assert await api.post(body()) == (429, "short_of_room")
    assert disk.least_free_bytes >= 20 * MB
    assert not list((tmp_path / "data").glob("jobs/*"))


async def test_expensive_uploads_do_not_delay_other_owner(tmp_path: Path, song: bytes) -> None:
    make_heavy_song(tmp_path / "heavy.flac")
    heavy = forms((tmp_path / "heavy.flac").read_bytes())["options first"]
    async with open_api(tmp_path / "data") as api:
        attacks = [asyncio.create_task(api.post(heavy, "203.0.113.1")) for _ in range(6)]
        while not list((tmp_path / "data" / "jobs").glob("*/input")):
            await asyncio.sleep(0.02)
        assert await api.post(forms(song)["options first"], "192.0.2.1") == (202, "")
        assert not all(task.done() for task in attacks), "an expensive song was still being checked"
        await asyncio.gather(*attacks)


async def test_expensive_refusals_of_one_owner_are_limited(
    tmp_path: Path, song: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.service.admission.COSTLY_S", 0.0)
    async with open_api(tmp_path / "data") as api:
        for _ in range(20):
            assert await api.post(forms(b"not a song" * 100)["file first"]) == (415, "not_audio")
        assert await api.post(forms(song)["file first"]) == (429, "too_many_refusals")
        assert (await api.post(forms(song)["file first"], "192.0.2.2"))[0] == 202


async def test_cheap_refusals_are_not_limited(tmp_path: Path, song: bytes) -> None:
    async with open_api(tmp_path / "data") as api:
        for _ in range(21):
            assert await api.post(forms(b"not a song" * 100)["file first"]) == (415, "not_audio")
        assert (await api.post(forms(song)["file first"]))[0] == 202


async def test_block_command_affects_running_server(
    tmp_path: Path, song: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEMIFY_DATA_DIR", str(tmp_path / "data"))
    async with open_api(tmp_path / "data") as api:
        assert await asyncio.to_thread(main, ["block", "ip:192.0.2.0/24"]) == 0
        assert await api.post(forms(song)["file first"], "192.0.2.1") == (403, "blocked")
        assert (await api.post(forms(song)["file first"], "198.51.100.1"))[0] == 202
        assert await asyncio.to_thread(main, ["blocked"]) == 0
        assert "ip:192.0.2.0/24" in capsys.readouterr().out
        assert await asyncio.to_thread(main, ["unblock", "ip:192.0.2.0/24"]) == 0
        assert (await api.post(forms(song)["file first"], "192.0.2.1"))[0] == 202


async def test_owner_with_too_many_stored_bytes_is_refused(tmp_path: Path, song: bytes) -> None:
    async with open_api(tmp_path / "data", stored_bytes_per_user=len(song)) as api:
        assert (await api.post(forms(song)["file first"]))[0] == 202
        assert await api.post(forms(song)["file first"]) == (422, "too_much_stored")
        assert (await api.post(forms(song)["file first"], "192.0.2.2"))[0] == 202
