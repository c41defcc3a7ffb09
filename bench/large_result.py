"""Upload a result of 400 MB to a real S3 server on loopback and download it: `python -m bench.large_result`.

All bytes are compared, and the memory of the process must not grow with them. The server (Swift from PyPI, four
processes) shares the cores and limits the speed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import resource
import tempfile
import time
from pathlib import Path

import aiohttp

from bench.report import table
from engine.jobs.entity import new_job_id
from engine.storage.object_store import ObjectStorage
from tests.fakes.object_store import object_storage, s3_server
from tests.fixtures.web_backend import open_web_server

STEMS = ("vocals", "drums", "bass", "other")
_BLOCK_BYTES = 2**20


def write_files(folder: Path, total_bytes: int) -> dict[str, str]:
    """Write four files of random bytes; return their digests."""
    folder.mkdir()
    digests = {}
    for stem in STEMS:
        digest = hashlib.sha256()
        with (folder / f"Song - {stem}.wav").open("wb") as file:
            for _ in range(total_bytes // len(STEMS) // _BLOCK_BYTES):
                block = os.urandom(_BLOCK_BYTES)
                digest.update(block)
                file.write(block)
        digests[f"Song - {stem}.wav"] = digest.hexdigest()
    return digests


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def digest_of(http: aiohttp.ClientSession, url: str) -> str:
    digest = hashlib.sha256()
    async with http.get(url) as response:
        assert response.status == 200, response.status
        async for block in response.content.iter_chunked(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


async def download_all(storage: ObjectStorage, folder: Path, job_id: str, digests: dict[str, str], query: str) -> float:
    """Download all files by signed links and compare them; return the seconds."""
    began = time.perf_counter()
    async with open_web_server(folder, storage=storage) as server, aiohttp.ClientSession() as http:
        for name, digest in digests.items():
            link = f"{server.url}{server.file_link(f'jobs/{job_id}/a1/{name}')}{query}"
            assert await digest_of(http, link) == digest, f"{name} has changed"
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.large_result", description=__doc__)
    parser.add_argument("--mb", type=int, default=400)
    total_bytes = parser.parse_args().mb * 10**6
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name) / "swift") as server:
        folder = Path(name)
        server.create_bucket()
        digests = write_files(folder / "out", total_bytes)
        storage, job_id, rows = object_storage(server, folder / "data", patience_s=60), new_job_id(), []
        before = peak_mib()
        began = time.perf_counter()
        storage.publish_folder(folder / "out", f"jobs/{job_id}/a1")
        rows.append({"step": "publish", "s": time.perf_counter() - began, "memory_mib": peak_mib() - before})
        for step, query in (("by redirect", ""), ("through this server", "&via=here")):
            spent_s = asyncio.run(download_all(storage, folder / "data", job_id, digests, query))
            rows.append({"step": step, "s": spent_s, "memory_mib": peak_mib() - before})
        for row in rows:
            row["mb_per_s"] = total_bytes / 1e6 / float(str(row["s"]))
        print(table(f"{total_bytes / 1e6:.0f} MB in four files; memory in addition to {before:.0f} MiB", rows))


if __name__ == "__main__":
    main()
