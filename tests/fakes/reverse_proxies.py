"""nginx and Caddy from Debian, each with a configuration of the test's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.fixtures.ports import free_port

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def check_program(name: str, package: str) -> str:
    """Return the program's path; skip with the reason where it is missing, except in CI."""
    if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return found
    reason = f"{name} not found: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def nginx(servers: str, folder: Path) -> Iterator[int]:
    """Run nginx with these server blocks, in which PORT stands for a free port on loopback. Yields the port."""
    program, port = check_program("nginx", "nginx-light"), free_port()
    paths = " ".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY)
    user = "user root;" if os.geteuid() == 0 else ""  # else the workers could not use the folder
    config = folder / "nginx.conf"
    config.write_text(
        f"{user} worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn; events {{}}\n"
        f"http {{ access_log off; {paths}\n{servers.replace('PORT', str(port))}\n}}\n"
    )
    command = [program, "-p", str(folder), "-e", "stderr", "-c", str(config), "-g", "daemon off;"]
    with _running(command, port, folder / "nginx.log"):
        yield port


@contextmanager
def caddy(caddyfile: str, folder: Path) -> Iterator[int]:
    """Run Caddy with this configuration, in which PORT stands for a free port on loopback. Yields the port."""
    program, port = check_program("caddy", "caddy"), free_port()
    config = folder / "Caddyfile"
    config.write_text(caddyfile.replace("PORT", str(port)))
    command = [program, "run", "--config", str(config), "--adapter", "caddyfile"]
    with _running(command, port, folder / "caddy.log", HOME=str(folder), XDG_DATA_HOME=str(folder)):
        yield port


@contextmanager
def _running(command: Sequence[str], port: int, log: Path, **environment: str) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        _wait_for(process, port, log)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"{process.args!r} did not start: {log.read_text()[-2000:]}")
