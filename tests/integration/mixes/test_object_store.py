"""Mixes of jobs whose files are in object storage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fakes.object_store import object_storage, s3_server
from tests.fixtures.mix_server import open_mix_server
from tests.fixtures.planted_results import OWNER, plant
from tests.fixtures.songs import tune

pytestmark = pytest.mark.timeout(600)


async def test_mix_and_version_in_object_storage(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    with s3_server(tmp_path / "swift") as server:
        server.create_bucket()
        storage = object_storage(server, data_dir)
        job_id = await plant(data_dir, {"vocals": tune(1), "instrumental": tune(1, seed=1)}, title="Sunny")
        for path in (data_dir / "jobs" / job_id / "a1").iterdir():
            server.put(f"songs/jobs/{job_id}/a1/{path.name}", path.read_bytes())
        shutil.rmtree(data_dir / "jobs")

        def keys() -> list[str]:
            return [key for key in server.keys(f"songs/jobs/{job_id}") if "/m" in key]

        async with open_mix_server(data_dir, storage=storage) as house:
            status, mix = await house.post(job_id, gains={"vocals": 0})
            assert status == 201 and len(keys()) == 2
            assert len(await house.download(mix["url"])) == mix["size"]
            assert (await house.post(job_id, gains={"vocals": 0}))[1] == mix
            (audio,) = (key for key in keys() if key.endswith(".mp3"))
            storage._bucket.delete([audio.removeprefix("songs/")])  # as after an upload that broke off
            assert (await house.post(job_id, gains={"vocals": 0}))[1]["size"] == mix["size"]
            assert audio in keys()
            status, version = await house.post(job_id, "versions", key=1)
            assert (status, set(version["stems"]), len(keys())) == (201, {"vocals", "instrumental"}, 5)
            assert list((data_dir / "mixing").iterdir()) == []
            await house.service.delete(job_id, by=OWNER)
            assert keys() == []
