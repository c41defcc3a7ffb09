"""Addresses that the web server cannot listen at."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from config.settings import load
from engine.backend import backend
from engine.errors import ConfigurationError


async def refusal(data_dir: Path, **web: object) -> str:
    with pytest.raises(ConfigurationError) as exit_info:
        async with backend(load(data_dir=data_dir, web=web)):
            pass
    return str(exit_info.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_port_in_use_is_named_once_with_setting(tmp_path: Path, host: str) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
        port = taken.getsockname()[1]
        message = await refusal(tmp_path, host=host, port=port)
    assert message.count(str(port)) == 1 and "Address already in use" in message and "STEMIFY_WEB__PORT" in message
    assert f"[::1]:{port}" in message or ":" not in host


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_address_of_another_machine_names_host_setting(tmp_path: Path, host: str) -> None:
    message = await refusal(tmp_path, host=host, port=0, api_tokens=["a-token-of-good-length"])
    assert message.count(host) == 1 and "STEMIFY_WEB__HOST" in message and "attempting to bind" not in message
