"""The gateway, its actors, and reports of an unreachable cluster."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot.cards.job_card import job_card
from engine.gateway import gateway
from engine.gateway.actor import ReplayBuffer
from engine.gateway.protocol import GatewayConfig
from engine.gateway.scratch import create_scratch_dir
from engine.gateway.versions import describe_mismatch, versions
from engine.jobs.job import JobView
from engine.service.service import ServiceSnapshot
from engine.web.health import _checks
from engine.worker.process import MessageWriter
from engine.worker.protocol import WorkerConfig
from tests.fixtures.card_text import card_text
from tests.fixtures.jobs import pending_job


def test_replay_buffer_keeps_lines_until_confirmed() -> None:
    buffer = ReplayBuffer()
    for line in (b"one\n", b"two\n"):
        buffer.write(line)
    assert buffer.after(0, 0) == (2, ["one\n", "two\n"])
    assert buffer.after(0, 0) == (2, ["one\n", "two\n"]), "unconfirmed lines are sent again"
    buffer.write(b"three\n")
    assert buffer.after(2, 0) == (3, ["three\n"])
    assert buffer.after(3, 0) == (3, [])


def test_node_with_other_code_or_torch_is_detected() -> None:
    ours = {"Stemify": "abc", "torch": "2.13.0", "demucs": "4.1.0"}
    assert describe_mismatch(ours, dict(ours)) is None
    mismatch = describe_mismatch(ours, ours | {"Stemify": "def", "torch": "2.12.0"})
    assert mismatch is not None and "Stemify def instead of abc and torch 2.12.0 instead of 2.13.0" in mismatch
    assert set(versions()) == set(ours) and "+" not in versions()["torch"]


def test_card_says_waiting_while_no_node_is_available() -> None:
    view = JobView(job=pending_job(), queue_place=3, no_worker=True)
    text = card_text(job_card(view, now=datetime.now(UTC)))
    assert "no worker is available" in text and "the job continues when" in text and "queue" not in text


def test_readyz_fails_only_without_workers() -> None:
    away = ServiceSnapshot(jobs={}, workers=(), usable_models=(), cluster_problem="The Ray head does not answer.")
    assert _checks(away)["cluster"].detail == "The Ray head does not answer." and not _checks(away)["cluster"].ok
    assert "cluster" not in _checks(replace(away, cluster_problem=None))


async def test_unreachable_head_gets_one_probe_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each query blocks a thread until the head is back."""
    head_is_back, queries = threading.Event(), list[int]()

    def read_nodes() -> list[object]:
        queries.append(1)
        head_is_back.wait(20)
        return []

    class FakeNodeManager:
        reconciled = asyncio.Event()

        def reconcile(self, nodes: list[object]) -> None:
            self.reconciled.set()

    output = io.BytesIO()
    worker = WorkerConfig(
        device="cpu", data_dir="/", cache_dir="/", model_memory_bytes=1, heartbeat_s=1, decode_timeout_s=1,
        child_memory_bytes=1, input_bytes=1,
    )  # fmt: skip
    config = GatewayConfig(
        address="10.0.0.1:6379",
        node_ip=None,
        own_node=False,
        cpus_per_worker=0,
        heartbeat_s=1,
        worker=worker,
        lease_s=1,
    )
    for name, value in (("read_nodes", read_nodes), ("_HEAD_TIMEOUT_S", 0.01), ("_POLL_S", 0.01)):
        monkeypatch.setattr(gateway, name, value)
    watch = asyncio.create_task(gateway.Gateway(config, None, MessageWriter(output))._watch_nodes(FakeNodeManager()))  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        while b"does not answer" not in output.getvalue():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert queries == [1]
        head_is_back.set()
        await FakeNodeManager.reconciled.wait()
    assert b'"text":null' in output.getvalue()
    watch.cancel()


@pytest.mark.parametrize("module", ["engine", "bot"])
def test_missing_ray_refuses_only_clusters(module: str, tmp_path: Path) -> None:
    hide_ray = "import sys; sys.modules['ray'] = None; import importlib.util as u; " + (
        "old = u.find_spec; u.find_spec = lambda name, *a: None if name == 'ray' else old(name, *a); "
    )
    run = f"import runpy; sys.argv = ['{module}', *sys.argv[1:]]; runpy.run_module('{module}', run_name='__main__')"
    variables = {
        "STEMIFY_DATA_DIR": str(tmp_path / "data"),
        "STEMIFY_WEB__PORT": "0",
        "STEMIFY_CLUSTER__ADDRESS": "127.0.0.1:6379",
    }
    arguments = ["serve"] if module == "engine" else []
    process = subprocess.run(
        [sys.executable, "-c", hide_ray + run, *arguments],
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    assert "Ray is not installed here" in process.stderr and "[cluster]" in process.stderr, json.dumps(process.stderr)
    assert "Traceback" not in process.stderr


def test_scratch_of_dead_worker_only_is_cleared(tmp_path: Path) -> None:
    living = create_scratch_dir(tmp_path)
    (living / "mix.f32").write_bytes(b"in use")
    program = (
        "from pathlib import Path; from engine.gateway.scratch import create_scratch_dir; "
        f"create_scratch_dir(Path('{tmp_path}'))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    (dead,) = [folder for folder in tmp_path.iterdir() if folder.is_dir() and folder != living]
    (dead / "mix.f32").write_bytes(b"left behind")
    mine = create_scratch_dir(tmp_path)
    assert {folder for folder in tmp_path.iterdir() if folder.is_dir()} == {living, mine}
    assert (living / "mix.f32").exists()
