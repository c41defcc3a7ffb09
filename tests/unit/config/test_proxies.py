from __future__ import annotations

import pytest
from pydantic import ValidationError

from config.proxies import proxy_for
from config.settings import Settings, load

DISCORD = "https://discord.com/api/v10"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "http://p:1"}, "http://p:1"),
        ({"ALL_PROXY": "http://a:1"}, "http://a:1"),
        ({"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.org,.discord.com"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "discord.com"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ({"ALL_PROXY": "socks5h://a:1"}, None),
    ],
)
def test_proxy_is_taken_from_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(DISCORD, None) == expected


def test_gateway_uses_the_https_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    assert proxy_for("wss://gateway.discord.gg", None) == "http://p:1"


def test_configured_proxy_wins_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", "*")
    assert proxy_for(DISCORD, "http://own:2") == "http://own:2"


def test_loopback_is_not_proxied_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://p:1")
    for host in ("127.0.0.1:8080", "localhost", "[::1]:8080"):
        assert proxy_for(f"http://{host}/x", None) is None


def test_socks_proxy_setting_is_refused() -> None:
    section = load().discord.model_dump()
    with pytest.raises(ValidationError, match="SOCKS proxies cannot be used for Discord"):
        type(load().discord).model_validate(section | {"proxy": "socks5://p:1"})
    assert isinstance(load(), Settings)
