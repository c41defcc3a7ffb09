"""A minimal real Ray cluster of two nodes on loopback addresses."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from engine.errors import StemifyError, WorkerDied
from engine.gateway.protocol import GatewayConfig
from engine.jobs.entity import new_job_id
from engine.jobs.options import StemSeparationOptions
from engine.pool.handle import PoolLimits
from engine.pool.pool import WorkerPool
from engine.worker.protocol import AttemptSpec, Done, WorkerConfig
from tests.fakes.object_store import S3Server, s3_server, storage_settings
from tests.fixtures.ray_cluster import VARIABLES, RayCluster, ray_cluster
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

LIMITS = PoolLimits(
    attempts_per_worker=2, heartbeat_timeout_s=60.0, stall_timeout_s=300.0, start_timeout_s=300.0, cancel_grace_s=5.0
)


def gateway_config(folder: Path, cluster: RayCluster, store: S3Server) -> GatewayConfig:
    return GatewayConfig(
        address=cluster.address,
        node_ip="127.0.0.2",
        own_node=False,  # the head's node is used
        cpus_per_worker=1,
        heartbeat_s=1.0,
        lease_s=120.0,
        worker=WorkerConfig(
            device="cpu",
            data_dir=str(folder / "workers"),
            clears_scratch=True,
            storage=storage_settings(store),
            models_dir=str(folder / "models"),
            cache_dir=str(folder / "cache"),
            model_memory_bytes=1 << 30,
            heartbeat_s=1.0,
            decode_timeout_s=120.0,
            child_memory_bytes=1 << 30,
            input_bytes=1 << 26,
        ),
    )


def spec_of(song: bytes, store: S3Server) -> AttemptSpec:
    job_id = new_job_id()
    store.put(f"songs/jobs/{job_id}/input", song)
    return AttemptSpec(
        job_id=job_id,
        attempt=1,
        input_key=f"jobs/{job_id}/input",
        scratch_key=f"scratch/{job_id}-a1",
        output_key=f"jobs/{job_id}/a1",
        options=StemSeparationOptions(model="htdemucs"),
        title="song",
        seed=0,
        max_duration_s=600,
    )


async def until_ready(pool: WorkerPool, cluster: RayCluster) -> None:
    """Wait for a worker on every node."""
    async with asyncio.timeout(600):
        while sum(worker.ready is not None for worker in pool.workers) != len(cluster.nodes):
            await asyncio.to_thread(cluster.restart_dead_nodes)
            await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patch, ray_cluster("127.0.0.3", "127.0.0.4") as made:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        yield made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as server:
        server.create_bucket()
        yield server


def keys_under(prefix: str, store: S3Server) -> list[str]:
    return store.keys(prefix)


async def try_versions(cluster: RayCluster, *ray_versions: str, **variables: str) -> list[str]:
    """Return the head's answer to gateways with these Ray versions."""
    program = (
        "import ray, sys; from engine.gateway.head import ClusterUnavailable, compare_versions\n"
        "for ray.__version__ in sys.argv[2:]:\n"
        "    try: print('accepted' if compare_versions(sys.argv[1]) is None else '')\n"
        "    except ClusterUnavailable as error: print(error)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cluster.address, *ray_versions, env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode().splitlines()


@pytest.mark.timeout(600)
async def test_wrong_ray_token_or_version_is_refused(cluster: RayCluster) -> None:
    ours = version("ray")
    (right, other), (stranger,) = await asyncio.gather(
        try_versions(cluster, ours, "2.0.0"), try_versions(cluster, ours, RAY_AUTH_TOKEN="x" * 32)
    )
    assert right == "accepted"
    assert "does not accept the bot's token" in stranger
    assert f"runs Ray {ours} on Python" in other and "the bot runs Ray 2.0.0" in other


@pytest.mark.timeout(900)
async def test_two_nodes_share_attempts_and_dead_node_returns_its(
    tmp_path: Path, cluster: RayCluster, store: S3Server
) -> None:
    """The nodes share only the object storage."""
    write_model(tmp_path / "models")
    make_song(tmp_path / "song.mp3", seconds=1.0)
    pool = WorkerPool([], LIMITS, gateway=gateway_config(tmp_path, cluster, store))
    song = (tmp_path / "song.mp3").read_bytes()
    assert pool.has_no_workers and pool.cluster_problem is not None

    async def run() -> Done:
        return await pool.run(spec_of(song, store), timeout_s=600, on_progress=lambda *_: None)

    await pool.start()
    try:
        await until_ready(pool, cluster)
        assert pool.slots == 4 and not pool.has_no_workers and pool.cluster_problem is None
        for done in await asyncio.gather(*(run() for _ in range(4))):
            keys = keys_under(f"songs/{done.result.output_dir}/", store)
            assert sum(key.endswith(".mp3") for key in keys) == 4 and len(keys) == 6, keys
        assert not list((tmp_path / "workers").glob("*/scratch/*")), "workers delete their scratch"
        (actor,) = cluster.nodes[0].actors()
        attempts = [asyncio.create_task(run()) for _ in range(2)]  # one on each
        async with asyncio.timeout(60):
            while not all(worker.attempts for worker in pool.workers):
                await asyncio.sleep(0.01)
        os.kill(actor, signal.SIGKILL)
        cluster.nodes[0].kill()
        ends = await asyncio.gather(*attempts, return_exceptions=True)
        lost = [end for end in ends if isinstance(end, StemifyError)]
        assert [isinstance(end, WorkerDied) for end in lost] == [True]
        del cluster.nodes[0]
        await until_ready(pool, cluster)
        assert (await run()).attempt == 1
    finally:
        await pool.stop()
