from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from config.settings import Settings, load
from engine.errors import ConfigurationError

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("STEMIFY_"):
            monkeypatch.delenv(name)


def test_defaults_are_complete() -> None:
    settings = load()
    assert settings.limits.jobs_per_hour == 5
    assert settings.limits.input_bytes == 50 * 2**20
    assert settings.web.host == "127.0.0.1"


def test_variables_override_file_overrides_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    custom = tmp_path / "custom.toml"
    custom.write_text("[web]\nport = 9000\nlink_lifetime_days = 7\n")
    monkeypatch.setenv("STEMIFY_CONFIG", str(custom))
    monkeypatch.setenv("STEMIFY_WEB__PORT", "9001")
    settings = load()
    assert (settings.web.port, settings.web.link_lifetime_days, settings.web.host) == (9001, 7, "127.0.0.1")


def test_list_variable_may_use_toml_syntax(monkeypatch: pytest.MonkeyPatch) -> None:
    for written in ('["cuda:0", "cpu"]', "['cuda:0', 'cpu',]"):
        monkeypatch.setenv("STEMIFY_WORKERS__DEVICES", written)
        assert load().workers.devices == ["cuda:0", "cpu"]


def test_list_variable_may_use_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMIFY_DISCORD__CDN_HOSTS", "127.0.0.1:8000, localhost:9")
    monkeypatch.setenv("STEMIFY_WEB__API_TOKENS", "one-long-secret,two-long-secrets")
    settings = load()
    assert settings.discord.cdn_hosts == ["127.0.0.1:8000", "localhost:9"]
    assert [token.get_secret_value() for token in settings.web.api_tokens] == ["one-long-secret", "two-long-secrets"]


def test_secrets_are_hidden_when_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMIFY_DISCORD__TOKEN", "very-secret-token")
    assert "very-secret-token" not in repr(load())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WEB__PORT", "many", 'web.port (STEMIFY_WEB__PORT) must be a whole number, not "many".'),
        ("WEB__PORT", "70000", 'web.port (STEMIFY_WEB__PORT) must be at most 65535, not "70000".'),
        (
            "LIMITS__JOBS_PER_HOUR",
            "0",
            'limits.jobs_per_hour (STEMIFY_LIMITS__JOBS_PER_HOUR) must be more than 0, not "0".',
        ),
        ("WORKERS__NO_SUCH", "1", "workers.no_such (STEMIFY_WORKERS__NO_SUCH) is not a known setting."),
        (
            "WORKERS__COMPILE",
            "perhaps",
            'workers.compile (STEMIFY_WORKERS__COMPILE) must be true or false, not "perhaps".',
        ),
        (
            "WORKERS__PRECISION",
            "fp8",
            "workers.precision (STEMIFY_WORKERS__PRECISION) must be one of 'auto', 'fp32', 'tf32' or 'fp16', "
            'not "fp8".',
        ),
        ("LOG__LEVEL", "loud", "log.level (STEMIFY_LOG__LEVEL) must be one of 'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
        ("STORAGE__URL", "ftp://x", "storage.url (STEMIFY_STORAGE__URL): give s3://bucket/folder"),
    ],
)
def test_invalid_setting_stops_start_and_names_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"STEMIFY_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_invalid_settings_are_described_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    custom = tmp_path / "custom.toml"
    custom.write_text(
        '[discord]\ntoken = 123456\n[web]\napi_tokens = "secret-one"\nport = 1.5\n[log]\nlevel = "info"\n'
    )
    monkeypatch.setenv("STEMIFY_CONFIG", str(custom))
    with pytest.raises(ConfigurationError) as caught:
        load()
    message = str(caught.value)
    assert sorted(line.split()[0] for line in message.splitlines()) == ["discord.token", "web.port"]
    assert "123456" not in message


@pytest.mark.parametrize("text", [b"[web\n", b"port = \xff", b"web = 3"])
def test_malformed_config_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    custom = tmp_path / "custom.toml"
    custom.write_bytes(text)
    monkeypatch.setenv("STEMIFY_CONFIG", str(custom))
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert str(custom) in str(caught.value) or "STEMIFY_WEB) must be a section" in str(caught.value)


def test_missing_config_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMIFY_CONFIG", "/nowhere/custom.toml")
    with pytest.raises(ConfigurationError, match="not a file"):
        load()


def test_docker_files_set_only_known_settings() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in {*re.findall(r"STEMIFY_\w+", text), *re.findall(r"STEMIFY_\w+", (ROOT / "Dockerfile").read_text())}:
        model: type[BaseModel] = Settings
        *sections, last = name.removeprefix("STEMIFY_").lower().split("__")
        for section in sections:
            kind = model.model_fields[section].annotation
            assert isinstance(kind, type) and issubclass(kind, BaseModel)
            model = kind
        assert last in model.model_fields, name


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMIFY_DISCORD__TOKEN", "")
    monkeypatch.setenv("STEMIFY_WEB__PUBLIC_URL", " ")
    settings = load()
    assert settings.discord.token is None and settings.web.public_url is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("stems.example.org", "full address"),
        ("stems.example.org:8443", "full address"),
        ("//stems.example.org", "full address"),
        ("ftp://stems.example.org", "full address"),
        ("https://", "full address"),
        ("https://stems.example.org/stemify/", "must not have a path"),
        ("https://stems.example.org/?a=b", "without a user name, a query"),
        ("https://me:secret@stems.example.org", "without a user name, a query"),
        ("https://stéms.example.org", "letters outside ASCII"),
        ("https://stems.example.org:99999", "web.public_url"),
        ("https://[::1", "web.public_url"),
    ],
)
def test_unusable_public_url_is_refused(monkeypatch: pytest.MonkeyPatch, url: str, message: str) -> None:
    monkeypatch.setenv("STEMIFY_WEB__PUBLIC_URL", url)
    with pytest.raises(ConfigurationError, match=message) as refusal:
        load()
    assert "STEMIFY_WEB__PUBLIC_URL" in str(refusal.value) and "secret" not in str(refusal.value)


def test_public_url_is_normalized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMIFY_WEB__PUBLIC_URL", "HTTPS://Stems.Example.org:443/")
    monkeypatch.setenv("STEMIFY_WEB__CDN_URL", "https://cdn.example.org/stems/")
    assert load().web.public_url == "https://stems.example.org"
    assert load().web.cdn_url == "https://cdn.example.org/stems", "a CDN may map a path to this server"
