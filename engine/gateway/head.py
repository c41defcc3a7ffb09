"""Connect the gateway to the Ray head. All functions block and raise `ClusterUnavailable`."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray._common.usage import usage_lib
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from engine.gateway.protocol import GatewayConfig

_OBJECT_STORE_BYTES = 80_000_000  # Ray's minimum; songs do not go through it
_CONNECT_TIMEOUT_S = 3.0
_NODE_START_S = 60.0

_DIE_WITH_PARENT = (
    "import os, signal, sys; from engine.process.confinement import die_with_parent; "
    "die_with_parent(signal.SIGTERM); os.execv(sys.argv[1], sys.argv[1:])"
)


class ClusterUnavailable(Exception):
    """The cluster cannot be used. The message is for the operator."""


def check_reachable(address: str) -> None:
    """Check that the head accepts connections. Ray would end this process if it does not."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except ValueError as error:
        raise ClusterUnavailable(f'The address of the Ray head must be "host:port", not "{address}".') from error
    except OSError as error:
        raise ClusterUnavailable(f"The Ray head at {address} does not answer ({error.strerror or error}).") from error


def compare_versions(address: str) -> None:
    """Check that the head runs the same versions of Ray and Python."""
    try:
        cluster = usage_lib.get_cluster_metadata(GcsClient(address=address))
    except Exception as error:
        raise _to_unavailable(address, error) from error
    python = ".".join(str(part) for part in sys.version_info[:3])
    theirs = (cluster.get("ray_version"), cluster.get("python_version"))
    if theirs != (ray.__version__, python):
        raise ClusterUnavailable(
            f"The Ray head at {address} runs Ray {theirs[0]} on Python {theirs[1]}, the bot runs Ray {ray.__version__} "
            f"on Python {python}. Install the same versions on every machine: docs/scale-out.md."
        )


class LocalRayNode:
    """A Ray node without devices on this machine, which Ray requires of every driver."""

    def __init__(self, config: GatewayConfig) -> None:
        ray_command = str(Path(sys.executable).with_name("ray"))
        command = [
            sys.executable, "-c", _DIE_WITH_PARENT, ray_command, "start", f"--address={config.address}", "--block",
            "--num-cpus=0", "--num-gpus=0", f"--object-store-memory={_OBJECT_STORE_BYTES}",
            "--include-log-monitor=false", "--disable-usage-stats",
        ]  # fmt: skip
        if config.node_ip:
            command.append(f"--node-ip-address={config.node_ip}")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    @property
    def has_exited(self) -> bool:
        return self._process.poll() is not None

    def last_line(self) -> str:
        """Return the last line of output of the exited process."""
        assert self._process.stdout is not None
        lines = self._process.stdout.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else "no reason given"

    def stop(self) -> None:
        """Terminate the node; wait up to 3 s."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(3.0)


def connect(config: GatewayConfig, node: LocalRayNode | None) -> None:
    """Connect to the cluster as a driver, waiting for the local node to start."""
    deadline = time.monotonic() + _NODE_START_S
    options: dict[str, Any] = {"_node_ip_address": config.node_ip} if config.node_ip else {}
    while True:
        if node is not None and node.has_exited:
            raise ClusterUnavailable(f"The bot's Ray node cannot be started: {node.last_line()}")
        try:
            ray.init(
                address=config.address,
                namespace="stemify",
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.WARNING,
                **options,
            )
            return
        except Exception as error:
            if node is None or node.has_exited or time.monotonic() > deadline:
                raise _to_unavailable(config.address, error) from error
            time.sleep(0.5)


def _to_unavailable(address: str, error: Exception) -> ClusterUnavailable:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    if isinstance(error, ray.exceptions.AuthenticationError):
        return ClusterUnavailable(
            f"The Ray head at {address} does not accept the bot's token. Set RAY_AUTH_MODE=token and the same "
            "RAY_AUTH_TOKEN on every machine: docs/scale-out.md."
        )
    return ClusterUnavailable(f"The Ray cluster at {address} cannot be used: {reason}")
