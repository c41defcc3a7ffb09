"""Delay of a separation by two hundred requests for mixes: `python -m bench.mixes_beside`.

Songs of the size of htdemucs are separated by a real backend in turn with and without the requests, each for another
mix of a finished job. The limits per owner are raised, so that all of them are accepted.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from bench.job import noise, write_song
from bench.networks import write_htdemucs
from bench.report import Row, table
from config.settings import load
from tests.fixtures.backend_server import served

MIXED_SONG_S = 240
POLL_S = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="length of the separated songs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mixes", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-mixes-") as name:
        folder = Path(name)
        write_htdemucs(folder / "models", "htdemucs")
        settings = load(
            data_dir=folder / "data",
            models_dir=folder / "models",
            web={"port": 0, "connections": 1000, "connections_per_address": 1000},
            workers={"compile": False},
            mixes={"per_hour": 1_000_000, "per_owner": 10_000, "queue": 10_000},
        )
        with served(settings) as url:
            rows = asyncio.run(measure(url, folder, args))
    print(table(f"Separating {args.seconds} s beside {args.mixes} requests for mixes", rows))


async def measure(url: str, folder: Path, args: argparse.Namespace) -> list[Row]:
    alone_s, beside_s, made = [], [], 0
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as client:
        mixed_id, _ = await separate(client, folder, MIXED_SONG_S, seed=0, model="mini")
        await separate(client, folder, args.seconds, seed=1000)  # the first one loads the model
        for number in range(1, args.rounds + 1):
            _, wall_s = await separate(client, folder, args.seconds, seed=10_000 * number)
            alone_s.append(wall_s)
            requests = [
                asyncio.create_task(request_mix(client, mixed_id, number, mix / args.mixes))
                for mix in range(args.mixes)
            ]
            _, wall_s = await separate(client, folder, args.seconds, seed=10_000 * number + 5_000)
            beside_s.append(wall_s)
            for request in requests:
                request.cancel()
            results = await asyncio.gather(*requests, return_exceptions=True)
            made += sum(result is None for result in results)
            refused = [result for result in results if isinstance(result, Exception)]
            assert not refused, refused[0]
    ratios = [beside / alone for alone, beside in zip(alone_s, beside_s, strict=True)]
    return [
        {
            "alone_s": median(alone_s),
            "beside_s": median(beside_s),
            "ratio": median(ratios),
            "mixes_made": made,
        }
    ]


async def separate(
    client: aiohttp.ClientSession, folder: Path, seconds: int, *, seed: int, model: str = "htdemucs"
) -> tuple[str, float]:
    """Separate a new song; return the job's id and the seconds from its acceptance to its result."""
    path = folder / "song.mp3"
    write_song(path, seconds, lambda second: noise(seed + second))
    form = aiohttp.FormData()
    form.add_field("options", f'{{"model": "{model}", "quality": "fast"}}', content_type="application/json")
    form.add_field("file", path.read_bytes(), filename=f"{seed}.mp3", content_type="audio/mpeg")
    async with client.post("/api/stemify", data=form) as response:
        job: dict[str, Any] = await response.json()
        assert response.status == 202, job
    started_s = time.monotonic()
    while job["status"] not in ("completed", "failed"):
        await asyncio.sleep(POLL_S)
        async with client.get(f"/api/jobs/{job['jobId']}") as response:
            job = await response.json()
    assert job["status"] == "completed", job
    return str(job["jobId"]), time.monotonic() - started_s


async def request_mix(client: aiohttp.ClientSession, job_id: str, number: int, gain: float) -> None:
    body = {"gains": {"drums": gain, "vocals": number / 10}}
    async with client.post(f"/api/jobs/{job_id}/mixes", json=body) as response:
        assert response.status == 201, await response.text()


if __name__ == "__main__":
    main()
