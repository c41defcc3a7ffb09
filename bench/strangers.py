"""What hostile requests do to a real server and to the song of another owner: `python -m bench.strangers`.

While each attack runs, another process asks for `/healthz` and reads the memory of the server. Every attacker has
another address in 127.0.0.0/8.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import aiohttp

from bench.report import Row, machine, save, table
from tests.fixtures.heavy_song import make_heavy_song
from tests.fixtures.ports import free_port
from tests.fixtures.songs import make_song
from tests.fixtures.tags.id3 import id3_tag

HEALTH_BAR_MS, MEMORY_BAR_MB, DELAY_BAR_S = 100, 50, 3.0
QUIET_S = 30.0
PATIENCE_S = 600.0
SLOW_HEADS_S = 20.0  # longer than a head may take
SONGS = 3
MB = 2**20
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
JSON = b"Content-Type: application/json\r\n"
FILE_HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="song"\r\n\r\n'
OPTIONS = b'--b\r\nContent-Disposition: form-data; name="options"\r\n\r\n{"model": "mini"}\r\n'

Attack = Callable[[int], Awaitable[str]]  # takes the port; returns what the server answered


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-strangers-") as folder:
        rows, songs = asyncio.run(measure(Path(folder)))
    print(table(f"Requests (bars: {HEALTH_BAR_MS} ms, {MEMORY_BAR_MB} MB)", rows))
    print(table(f"A song of 6 s beside six heavy uploads of another owner (bar: {DELAY_BAR_S:g} s)", songs))
    bars = [(str(row["attack"]), float(row["healthz_max_ms"])) for row in rows]
    for path in save("strangers", {"machine": machine(), "requests": rows, "songs": songs}, bars, "ms"):
        print(path)


async def measure(folder: Path) -> tuple[list[Row], list[Row]]:
    attacks: dict[str, Attack] = {
        "none": lambda port: _nothing(),
        "gzip bodies of 200 MB": gzip_bodies,
        "endless JSON": lambda port: _pushed(port, JSON, itertools.repeat(b" " * 65536)),
        "endless lines before the first part": lambda port: _pushed(port, FORM, itertools.repeat(b"\n" * 65536)),
        "parts without end": lambda port: _pushed(port, FORM, itertools.repeat((FILE_HEAD + b"x\r\n") * 500)),
        "headers of a part without end": lambda port: _pushed(
            port, FORM, itertools.chain([b"--b\r\n"], itertools.repeat(b"X-Header: value\r\n" * 2000))
        ),
        "1,200 slow heads": slow_heads,
        "3,000 connections": many_connections,
    }
    heavy, song = folder / "heavy.flac", folder / "song.mp3"
    make_heavy_song(heavy)
    make_song(song, seconds=6)
    tags = id3_tag(420_000) + song.read_bytes()
    async with _server(folder) as (port, process_id):
        alone = [await _separate(port, song.read_bytes(), f"127.0.1.{1 + number}") for number in range(SONGS + 1)][1:]
        accepted_s, song_s = (median(times) for times in zip(*alone, strict=True))
        songs: list[Row] = [{"beside": "nothing", "accepted_s": accepted_s, "song_s": song_s, "delay_s": None}]
        rows = [await _watched(name, attack, port, process_id) for name, attack in attacks.items()]
        uploads = {
            "420,000 tags": tags,
            "eight channels, damaged at the end": heavy.read_bytes()[:-4096],
        }
        for number, (name, body) in enumerate(uploads.items(), start=1):
            figures: Row = {"beside": name}

            async def upload(port: int, body: bytes = body, number: int = number, figures: Row = figures) -> str:
                heavy = [asyncio.create_task(_submit(port, body, f"127.0.2.{number}")) for _ in range(6)]
                await asyncio.sleep(1)
                times = await _separate(port, song.read_bytes(), f"127.0.3.{number}")
                figures |= {"accepted_s": times[0], "song_s": times[1], "delay_s": times[1] - song_s}
                answers = await asyncio.gather(*heavy)
                return _counted([str(answer.get("error", {}).get("code", status)) for status, answer in answers])

            rows.append(await _watched(f"six uploads, {name}", upload, port, process_id))
            songs.append(figures)
    return rows, songs


async def _watched(name: str, attack: Attack, port: int, process_id: int) -> Row:
    """Measure the latency of `/healthz` and the memory of the server during `attack`."""
    with _watch(port, process_id) as figures:
        await asyncio.sleep(1)
        started_s = time.monotonic()
        answers = await attack(port)
        took_s = time.monotonic() - started_s
        await asyncio.sleep(1)
    return {"attack": name, **figures, "took_s": took_s, "answers": answers}


@contextmanager
def _watch(port: int, process_id: int) -> Iterator[Row]:
    here, there = multiprocessing.Pipe()
    watcher = multiprocessing.get_context("spawn").Process(target=watch, args=(port, process_id, there))
    watcher.start()
    here.recv()
    figures: Row = {}
    try:
        yield figures
    finally:
        here.send(None)
        figures |= here.recv()
        watcher.join()


def watch(port: int, process_id: int, pipe: Connection) -> None:
    """Ask for `/healthz` until a message comes, then send the figures."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    latencies_ms, failures, start_mb = [], 0, _resident_mb(process_id)
    peak_mb = start_mb
    pipe.send(None)
    while not pipe.poll(0.02):
        asked_s = time.monotonic()
        try:
            client.request("GET", "/healthz")
            client.getresponse().read()
        except (OSError, http.client.HTTPException):
            failures += 1
            client.close()
        latencies_ms.append((time.monotonic() - asked_s) * 1000)
        peak_mb = max(peak_mb, _resident_mb(process_id))
    pipe.send(
        {
            "healthz_max_ms": max(latencies_ms), "healthz_median_ms": median(latencies_ms), "failed": failures,
            "growth_mb": peak_mb - start_mb,
        }
    )  # fmt: skip


def _resident_mb(process_id: int) -> float:
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


async def _nothing() -> str:
    await asyncio.sleep(QUIET_S)
    return "–"


async def gzip_bodies(port: int) -> str:
    body = gzip.compress(bytes(200 * MB))
    head = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(body) + JSON
    return _counted([await _pushed(port, head, [body], chunked=False) for _ in range(10)])


async def _pushed(port: int, headers: bytes, blocks: Iterable[bytes], *, chunked: bool = True) -> str:
    """Send `blocks` until the server answers; return its status and what it took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
    writer.write(b"POST /api/stemify HTTP/1.1\r\nHost: localhost\r\n" + headers)
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
    answer = asyncio.create_task(reader.readline())
    sent_bytes = 0
    with contextlib.suppress(ConnectionError):
        for block in blocks:
            writer.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
            await writer.drain()
            sent_bytes += len(block)
            if answer.done():
                break
    async with asyncio.timeout(PATIENCE_S):
        status = (await answer).split()[1].decode()
    writer.close()
    return f"{status} after {sent_bytes / MB:.1f} MB"


async def slow_heads(port: int) -> str:
    """Open 1,200 connections of 30 addresses that send a byte of their head each second."""
    writers = []
    for number in range(1200):
        with contextlib.suppress(ConnectionError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.4.{1 + number % 30}", 0))
            writer.write(b"GET / HTTP/1.1\r\nX: ")
            writers.append(writer)
    ends_s = time.monotonic() + SLOW_HEADS_S
    while time.monotonic() < ends_s:
        for writer in writers:
            if not writer.is_closing():
                writer.write(b"x")
        await asyncio.sleep(1)
    still_open = sum(not writer.is_closing() for writer in writers)
    for writer in writers:
        writer.close()
    return f"{still_open} open after {SLOW_HEADS_S:g} s"


async def many_connections(port: int) -> str:
    """Open 3,000 connections of 60 addresses, each with one request, and keep them."""
    writers, statuses = [], []
    for number in range(3000):
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(f"127.0.5.{1 + number % 60}", 0)
            )
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            writers.append(writer)
            statuses.append((await reader.readline()).split()[1].decode())
        except (ConnectionError, IndexError):
            statuses.append("closed")
    for writer in writers:
        writer.close()
    return _counted(statuses)


async def _separate(port: int, song: bytes, address: str) -> tuple[float, float]:
    """Separate a song; return the seconds from its first byte to its acceptance and to its result."""
    started_s = time.monotonic()
    status, job = await _submit(port, song, address)
    accepted_s = time.monotonic() - started_s
    assert status == 202, job
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        while job["status"] not in ("completed", "failed"):
            await asyncio.sleep(0.05)
            async with client.get(f"/api/jobs/{job['jobId']}") as response:
                job = await response.json()
    assert job["status"] == "completed", job
    return accepted_s, time.monotonic() - started_s


async def _submit(port: int, song: bytes, address: str) -> tuple[int, Row]:
    connector, timeout = aiohttp.TCPConnector(local_addr=(address, 0)), aiohttp.ClientTimeout(total=PATIENCE_S)
    form = OPTIONS + FILE_HEAD + song + b"\r\n--b--\r\n"
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as client,
        client.post(
            f"http://127.0.0.1:{port}/api/stemify",
            data=form,
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        ) as response,
    ):
        return response.status, await response.json()


def _counted(answers: Iterable[str]) -> str:
    return ", ".join(f"{count} x {answer}" for answer, count in Counter(answers).most_common())


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[tuple[int, int]]:
    """Run `python -m engine serve`; yield its port and process id once a model can be used."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STEMIFY_")} | {
        "STEMIFY_DATA_DIR": str(folder / "data"),
        "STEMIFY_WEB__PORT": str(port),
        "STEMIFY_WEB__SAMPLE": "false",
        "STEMIFY_RETENTION__REUSE_RESULTS": "false",
        "STEMIFY_WORKERS__DEVICES": "cpu",
        "STEMIFY_WORKERS__COMPILE": "false",
    }
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "engine", "serve", env=environment, stdout=log, stderr=log
        )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client, asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with client.get("/readyz") as response:
                        if response.status == 200:
                            break
                await asyncio.sleep(0.2)
        yield port, process.pid
    finally:
        process.terminate()
        await process.wait()


if __name__ == "__main__":
    main()
