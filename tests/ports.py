"""Ports for servers of other programs that cannot choose one themselves, or must come back at the same one."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """One that stays free until it is used: the system gives outgoing connections those from 32768 on, and Ray its
    workers those below 20000."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("", port)):
            return port


def free_ports(count: int) -> list[int]:
    """Different ones."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)
