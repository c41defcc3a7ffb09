"""Addresses that messages may link to."""

from __future__ import annotations

import pytest

from bot.links import is_public

PRIVATE = [
    "http://127.0.0.1:8080/jobs/1", "http://localhost/", "http://[::1]:8080/", "http://0.0.0.0/", "http://10.0.0.7/",
    "http://192.168.1.20:8080/", "http://172.20.0.2/", "http://169.254.3.4/", "http://100.64.0.1/",
    "http://[fd00::1]/", "http://[fe80::1]/", "http://nas/", "http://nas.local/", "http://nas.home.arpa/", "http://",
]  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE)
def test_loopback_and_private_addresses_are_not_public(url: str) -> None:
    assert not is_public(url)


@pytest.mark.parametrize("url", ["https://stems.example/jobs/1", "http://1.1.1.1:80/", "https://[2606:4700::1111]/"])
def test_other_addresses_are_public(url: str) -> None:
    assert is_public(url)
