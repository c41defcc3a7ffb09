"""Failures in a cluster of three nodes: no job is lost or published twice, and the bot keeps running.

These tests take minutes: run them with `make test-cluster`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fixtures.cluster_stage import Bot, bot_on
from tests.fixtures.ray_cluster import VARIABLES, RayCluster, ray_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

HOSTS = ("127.0.0.3", "127.0.0.4", "127.0.0.5")
TIMES = {
    "STEMIFY_WORKERS__HEARTBEAT_TIMEOUT_S": "20",
    "STEMIFY_WORKERS__START_TIMEOUT_S": "400",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(*HOSTS, RAY_gcs_rpc_server_reconnect_timeout_s="20") as made:
        yield made


@pytest.fixture(scope="module")
def bot(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bot]:
    with bot_on(tmp_path_factory.mktemp("bot"), cluster, **TIMES) as running:
        yield running


@pytest.fixture(autouse=True)
def complete(cluster: RayCluster, bot: Bot) -> None:
    """Wait until all three nodes have a worker."""
    await_all_workers(cluster, bot)


def await_all_workers(cluster: RayCluster, bot: Bot) -> None:
    def three() -> bool:
        cluster.restart_dead_nodes()
        return len(bot.workers()) == 3

    bot.until(three, "three workers")


def submit_many(bot: Bot, count: int = 60) -> list[str]:
    with ThreadPoolExecutor(2) as threads:  # an owner may upload two songs at once
        return list(threads.map(bot.submit, [bot.folder / "song.mp3"] * count))


def await_end(bot: Bot, job_ids: list[str]) -> None:
    def over() -> bool:
        rows = {row["id"]: row["status"] for row in bot.rows()}
        return all(rows[each] in ("completed", "failed") for each in job_ids)

    bot.until(over, "end of all jobs")


def done(bot: Bot, job_ids: list[str]) -> int:
    return sum(row["status"] == "completed" for row in bot.rows() if row["id"] in set(job_ids))


def attempts(bot: Bot, job_ids: list[str]) -> list[int]:
    return sorted(row["attempt"] for row in bot.rows() if row["id"] in set(job_ids))


def test_three_nodes_share_sixty_jobs(bot: Bot, cluster: RayCluster) -> None:
    began = time.monotonic()
    job_ids = submit_many(bot)
    await_end(bot, job_ids)
    print(f"60 jobs in {time.monotonic() - began:.1f} s")
    bot.assert_all_published_once(job_ids)
    assert attempts(bot, job_ids) == [1] * 60


def test_killed_node_loses_no_job(bot: Bot, cluster: RayCluster) -> None:
    job_ids = submit_many(bot)
    bot.until(lambda: done(bot, job_ids) >= 3, "first jobs")
    killed = time.monotonic()
    cluster.nodes[0].kill()
    bot.until(lambda: len(bot.workers()) == 2, "notice of the lost machine")
    print(f"kill -9 of a machine was noticed after {time.monotonic() - killed:.1f} s")
    await_end(bot, job_ids)
    bot.assert_all_published_once(job_ids)
    assert attempts(bot, job_ids)[-1] == 2


def test_killed_actor_loses_no_job(bot: Bot, cluster: RayCluster) -> None:
    job_ids = submit_many(bot, 20)
    bot.until(lambda: done(bot, job_ids) >= 2, "first jobs")
    (actor,) = cluster.nodes[1].actors()
    os.kill(actor, signal.SIGKILL)
    await_end(bot, job_ids)
    bot.assert_all_published_once(job_ids)
    assert attempts(bot, job_ids)[-1] == 2


def test_suspended_node_cannot_publish_after_waking(bot: Bot, cluster: RayCluster) -> None:
    job_ids = submit_many(bot, 20)
    bot.until(lambda: done(bot, job_ids) >= 2, "first jobs")
    stopped = time.monotonic()
    cluster.nodes[2].signal(signal.SIGSTOP)
    bot.until(lambda: len(bot.workers()) == 2, "notice of the stopped machine")
    print(f"a stopped machine was given up after {time.monotonic() - stopped:.1f} s")
    await_end(bot, job_ids)
    cluster.nodes[2].signal(signal.SIGCONT)
    await_all_workers(cluster, bot)
    time.sleep(5)
    bot.assert_all_published_once(job_ids)


def test_drained_node_finishes_and_gets_no_new_jobs(bot: Bot, cluster: RayCluster) -> None:
    job_ids = submit_many(bot, 20)
    bot.until(lambda: done(bot, job_ids) >= 2, "first jobs")
    ray_command = str(Path(sys.executable).with_name("ray"))
    (node_id,) = set(re.findall(rf"node (\w+) joined: {cluster.nodes[0].host},", bot.log())[-1:])
    subprocess.run(
        [ray_command, "drain-node", f"--address={cluster.address}", f"--node-id={node_id}",
         "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test", "--deadline-remaining-seconds=3600"],
        env={**os.environ, **VARIABLES}, check=True, capture_output=True,
    )  # fmt: skip
    bot.until(lambda: len(bot.workers()) == 2, "end of the drained worker")
    await_end(bot, job_ids)
    bot.assert_all_published_once(job_ids)
    assert attempts(bot, job_ids) == [1] * 20
    cluster.nodes[0].kill()  # as an operator would; the fixture `complete` restarts it


def test_lost_head_delays_jobs_and_is_reported(bot: Bot, cluster: RayCluster) -> None:
    job_ids = submit_many(bot, 20)
    bot.until(lambda: done(bot, job_ids) >= 2, "first jobs")
    killed = time.monotonic()
    cluster.head.kill()
    bot.until(lambda: "does not answer" in bot.readiness()["checks"].get("cluster", {}).get("detail", ""), "reason")
    print(f"the lost head was reported after {time.monotonic() - killed:.1f} s")
    bot.until(lambda: not bot.readiness()["ready"], "unreadiness")
    job_ids.append(bot.submit(bot.folder / "song.mp3"))
    time.sleep(10)
    assert bot.process.poll() is None
    cluster.start_head()
    began = time.monotonic()
    await_all_workers(cluster, bot)
    print(f"three workers were back {time.monotonic() - began:.1f} s after the head")
    await_end(bot, job_ids)
    bot.assert_all_published_once(job_ids)
