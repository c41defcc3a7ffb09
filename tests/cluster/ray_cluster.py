"""A real Ray cluster of several nodes on the loopback addresses of one machine, each of which can be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

TOKEN = "stemify-tests-" + "0123456789abcdef" * 2
STORE_BYTES = 80_000_000
_START_S = 240.0  # on a machine with other work
VARIABLES = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_enable_metrics_collection": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_num_prestart_python_workers": "0",
    "RAY_worker_niceness": "0",  # 15 by default: beside a busy test machine they would never start
    "RAY_health_check_period_ms": "1000",  # a dead node is known in 5 s, not in 15
    "OMP_NUM_THREADS": "1",
}
"""Of the nodes, and of whoever wants to talk to them."""


def living(session: int, name: str = "") -> list[int]:
    """Processes of a session, those with `name` in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(folder.name)
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if os.getsid(pid) == session and command and name in command:
                found.append(pid)
    return found


def end_session(leader: subprocess.Popen[bytes]) -> None:
    """SIGKILL to all at once, as often as it takes."""
    while alive := living(leader.pid):
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        leader.poll()
        time.sleep(0.02)
    leader.wait()


class RayNode:
    """One `ray start --block`, in a process group of its own."""

    def __init__(self, host: str, arguments: list[str], variables: dict[str, str], log: Path) -> None:
        self.host = host
        self._log = log
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={host}",
            f"--object-store-memory={STORE_BYTES}", "--num-gpus=0", "--include-log-monitor=false",
            "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats", *arguments,
        ]  # fmt: skip
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **VARIABLES, **variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def pids(self, name: str = "") -> list[int]:
        """Living processes of the node, those with `name` in their command line."""
        return living(self.process.pid, name)

    def signal(self, what: signal.Signals, name: str = "") -> None:
        for pid in self.pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    def kill(self) -> None:
        """As if somebody had pulled the plug."""
        end_session(self.process)

    def actors(self) -> list[int]:
        return self.pids("WorkerActor")


class RayCluster:
    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.variables = variables
        self.head: RayNode
        self.nodes: list[RayNode] = []
        self.port = free_port()
        self.address = f"127.0.0.2:{self.port}"

    def start_head(self) -> None:
        """Without CPUs: it only keeps the book."""
        arguments = ["--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false"]
        arguments.append(f"--temp-dir={self.folder / 'h'}")
        self.head = RayNode("127.0.0.2", arguments, self.variables, self.folder / "head.log")
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.2", self.port), 1).close()
                return
            assert self.head.process.poll() is None, self.head.log()
            time.sleep(0.1)
        raise AssertionError(self.head.log())

    def start_node(self, host: str) -> RayNode:
        """With one CPU."""
        arguments = [f"--address={self.address}", "--num-cpus=1"]
        return RayNode(host, arguments, self.variables, self.folder / f"{host}.log")

    def tend(self) -> None:
        """Start again what has ended, as `restart: unless-stopped` does."""
        for index, node in enumerate(self.nodes):
            if node.process.poll() is not None:
                node.kill()
                self.nodes[index] = self.start_node(node.host)

    def stop(self) -> None:
        for node in [*self.nodes, self.head]:
            node.kill()


@contextmanager
def ray_cluster(*hosts: str, **variables: str) -> Iterator[RayCluster]:
    """A head on 127.0.0.2 and a node of one CPU on each of `hosts`. Paths of sockets must be short, hence /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    cluster = RayCluster(folder, variables)
    try:
        cluster.start_head()
        for host in hosts:
            cluster.nodes.append(cluster.start_node(host))
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
