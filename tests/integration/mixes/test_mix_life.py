"""The life of a mix: made once, counted, within limits, gone with its job."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from config.settings import load
from engine.dispatch.sweeper import Sweeper
from engine.errors import TooMuchStored
from engine.jobs.job import JobStatus
from engine.mixes import mixer
from engine.mixes.entities import MixRequest
from engine.mixes.process import render_files
from tests.fixtures.jobs import NO_QUEUE_LIMITS, pending_job
from tests.fixtures.mix_server import MixServer, open_mix_server
from tests.fixtures.planted_results import OWNER, RATE, plant
from tests.fixtures.songs import Samples, tune

pytestmark = pytest.mark.timeout(600)
STEMS: dict[str, Samples] = {name: 0.4 * tune(1, seed=seed) for seed, name in enumerate(("vocals", "instrumental"))}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[MixServer]:
    async with open_mix_server(tmp_path) as server:
        yield server


def children() -> list[int]:
    """Return the processes of this test that render a mix."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_child = f"PPid:\t{os.getpid()}\n" in (process / "status").read_text()
            if is_child and b"engine.mixes.child" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


async def until_child() -> int:
    async with asyncio.timeout(60):
        while not (found := children()):
            await asyncio.sleep(0.01)
    return found[0]


def stored_mixes(data_dir: Path, job_id: str) -> list[Path]:
    return sorted((data_dir / "jobs" / job_id).glob("m*"))


async def test_equal_requests_share_one_file(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny")
    bodies = [{"gains": {"vocals": 0}}, {"gains": {"vocals": -0.0, "instrumental": 1}, "from": 0, "to": 9, "key": -0.0}]
    answers = await asyncio.gather(*(server.post(job_id, **body) for body in bodies * 3))  # type: ignore[arg-type]
    assert {status for status, _ in answers} == {201}
    assert len({answer["url"] for _, answer in answers}) == 1 == len(stored_mixes(tmp_path, job_id))
    before = stored_mixes(tmp_path, job_id)[0].stat().st_mtime_ns
    assert (await server.post(job_id, gains={"vocals": 0}))[1] == answers[0][1]
    assert stored_mixes(tmp_path, job_id)[0].stat().st_mtime_ns == before
    assert list((tmp_path / "mixing").iterdir()) == []


async def test_killed_child_leaves_nothing_and_next_request_works(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny")
    request = asyncio.create_task(server.post(job_id, key=-2))
    os.kill(await until_child(), signal.SIGKILL)
    status, answer = await request
    assert (status, answer["error"]["code"]) == (500, "mix_failed")
    assert stored_mixes(tmp_path, job_id) == [] and list((tmp_path / "mixing").iterdir()) == []
    assert (await server.post(job_id, key=-2))[0] == 201


async def test_work_of_a_killed_server_is_deleted_at_start(tmp_path: Path) -> None:
    (tmp_path / "mixing" / "tmp123" / "out").mkdir(parents=True)
    (tmp_path / "mixing" / "tmp123" / "out" / "Sunny.mp3").write_bytes(b"half")
    async with open_mix_server(tmp_path) as server:
        job_id = await plant(tmp_path, STEMS, title="Sunny")
        assert not (tmp_path / "mixing").exists()
        assert (await server.post(job_id))[0] == 201


async def test_server_stops_its_children(tmp_path: Path) -> None:
    async with open_mix_server(tmp_path) as server:
        job_id = await plant(tmp_path, STEMS, title="Sunny")
        request = asyncio.create_task(server.post(job_id))
        await until_child()
        await server.mixer.close()
        assert children() == []
        await asyncio.gather(request, return_exceptions=True)
    assert stored_mixes(tmp_path, job_id) == [] and list((tmp_path / "mixing").iterdir()) == []


async def test_child_runs_at_the_configured_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEMIFY_MIXES__NICENESS")
    niceness = load().mixes.niceness
    assert niceness > 0
    async with open_mix_server(tmp_path, niceness=niceness) as server:
        job_id = await plant(tmp_path, STEMS, title="Sunny")
        request = asyncio.create_task(server.post(job_id))
        pid, nice = await until_child(), 0
        async with asyncio.timeout(60):
            while nice != min(19, os.nice(0) + niceness):
                await asyncio.sleep(0.005)
                nice = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16])
        await server.mixer.close()
        await asyncio.gather(request, return_exceptions=True)


async def test_mixes_per_hour_are_limited_for_each_owner(tmp_path: Path) -> None:
    async with open_mix_server(tmp_path, per_hour=2) as server:
        job_id = await plant(tmp_path, STEMS, title="Sunny")
        for gain in (1, 2, 2):  # the third exists already
            assert (await server.post(job_id, gains={"vocals": gain}))[0] == 201
        async with server.client.post(f"/api/jobs/{job_id}/mixes", json={"gains": {"vocals": 3}}) as response:
            answer = await response.json()
            assert (response.status, answer["error"]["code"]) == (429, "mixes_exceeded")
            assert "2 mixes in the last hour" in answer["error"]["message"]
            assert 3500 < int(response.headers["Retry-After"]) <= 3600


async def test_mixes_at_once_are_limited(tmp_path: Path) -> None:
    async with open_mix_server(tmp_path, per_owner=2) as server:
        job_id = await plant(tmp_path, STEMS, title="Sunny")
        gains = [{"vocals": each} for each in (1, 2, 3)]
        answers = await asyncio.gather(*(server.post(job_id, gains=each) for each in gains))
        assert sorted(status for status, _ in answers) == [201, 201, 429]
        refused = next(answer for status, answer in answers if status == 429)
        assert refused["error"]["code"] == "too_many_mixes"
    async with open_mix_server(tmp_path, per_owner=9, processes=1, queue=1) as server:
        answers = await asyncio.gather(*(server.post(job_id, gains={"vocals": each}) for each in (0.1, 0.2, 0.3)))
        assert sorted(status for status, _ in answers) == [201, 201, 429]


async def test_progress_of_a_version_is_a_percentage(
    server: MixServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop a version when half of its samples are there."""
    job_id = await plant(tmp_path, STEMS, title="Sunny", kind="wav")
    is_half_done, goes_on = threading.Event(), threading.Event()

    def stopping(*args: Any, spool: BinaryIO, **options: Any) -> Any:
        channels, sample_bytes = 2 * len(STEMS), 4
        spool.truncate(round(RATE * channels * sample_bytes / 0.9) // 2)
        is_half_done.set()
        goes_on.wait(60)
        spool.truncate(0)
        return render_files(*args, spool=spool, **options)

    async def progress() -> Any:
        async with server.client.get(f"/jobs/{job_id}/version-progress.json?key=0&tempo=0.9") as response:
            assert response.status == 200
            return (await response.json())["progress"]

    monkeypatch.setattr(mixer, "render_files", stopping)
    assert await progress() is None
    making = asyncio.create_task(server.post(job_id, "versions", tempo=0.9))
    assert await asyncio.to_thread(is_half_done.wait, 60)
    assert await progress() == 50
    goes_on.set()
    assert (await making)[0] == 201
    assert await progress() is None
    async with server.client.get(f"/jobs/{job_id}/version-progress.json?key=x") as response:
        assert response.status == 400


async def test_blocked_owners_get_no_mixes(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny")
    await server.blocked.add("ip:127.0.0.1")
    for kind in ("mixes", "versions"):
        status, answer = await server.post(job_id, kind)
        assert (status, answer["error"]["code"]) == (403, "blocked")
    assert stored_mixes(tmp_path, job_id) == []
    assert await server.blocked.remove("ip:127.0.0.1")
    assert (await server.post(job_id))[0] == 201


async def test_mixes_count_as_stored_and_go_with_the_job(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny")
    before = await server.usage.stored_bytes(OWNER)
    _, mix = await server.post(job_id)
    assert await server.usage.stored_bytes(OWNER) == before + mix["size"]
    await server.service.delete(job_id, by=OWNER)
    assert await server.usage.stored_bytes(OWNER) == 0 and not (tmp_path / "jobs" / job_id).exists()
    assert (await server.post(job_id))[0] == 404


async def test_people_with_a_link_leave_room_to_the_owner(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny")
    await server.post(job_id)
    server.usage._limit_bytes, by = round(await server.usage.stored_bytes(OWNER) / 0.9), "discord:2"
    with pytest.raises(TooMuchStored):
        await server.service.mix(job_id, MixRequest.from_user({"key": 1}), by=by)
    await server.service.mix(job_id, MixRequest.from_user({"key": 1}), by=OWNER)
    await server.service.mix(job_id, MixRequest.from_user({"key": 1}), by=by)  # exists now


async def test_sweeper_keeps_mixes_and_deletes_expired_ones(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny")
    await server.post(job_id)
    now = datetime.now(UTC)
    sweeper = Sweeper(server.store, server.storage, lambda: now, load().retention)
    await sweeper.sweep()
    assert len(stored_mixes(tmp_path, job_id)) == 1
    now += timedelta(days=89)  # archived, its stems are still there
    await sweeper.sweep()
    assert (await server.store.counts())[JobStatus.COMPLETED] == 0
    assert (await server.post(job_id))[0] == 201
    assert (await server.post(job_id, gains={"vocals": 0}))[0] == 201, "a new mix of an archived job"
    now += timedelta(days=2)
    await sweeper.sweep()
    assert not (tmp_path / "jobs" / job_id).exists()
    status, answer = await server.post(job_id, gains={"vocals": 0})
    assert (status, answer["error"]["code"]) == (404, "not_found")


async def test_unfinished_job_has_no_mix(server: MixServer) -> None:
    job = pending_job(OWNER)
    await server.store.add(job, NO_QUEUE_LIMITS)
    for kind in ("mixes", "versions"):
        assert (await server.post(job.id, kind))[0] == 409


async def test_damaged_stem_is_reported(server: MixServer, tmp_path: Path) -> None:
    job_id = await plant(tmp_path, STEMS, title="Sunny")
    (tmp_path / "jobs" / job_id / "a1" / "vocals.mp3").write_bytes(b"no audio" * 999)
    status, answer = await server.post(job_id)
    assert (status, answer["error"]["code"]) == (500, "mix_failed")
    assert answer["error"]["message"] == "A stem of this song is damaged. Separate the song again."
    assert stored_mixes(tmp_path, job_id) == []
