"""All settings, loaded once in a `__main__` and passed down.

Sources, later ones win: `config/default.toml`, the file in `STEMIFY_CONFIG`, variables such as `STEMIFY_WEB__PORT`.
"""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from config.variables import describe_errors, variable_names
from engine.errors import ConfigurationError
from engine.jobs.models import ModelName
from engine.jobs.options import OutputFormat, Quality

DEFAULTS = Path(__file__).with_name("default.toml")


def _split(value: object) -> object:
    """Split "a, b" from a variable into a list; ["a", "b"], as in a file, works too."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            return tomllib.loads(f"value = {value}")["value"]
    return [part.strip() for part in value.split(",") if part.strip()]


def _blank_is_none(value: object) -> object:
    """Treat an empty variable (`STEMIFY_DISCORD__TOKEN=`) as unset."""
    return None if isinstance(value, str) and not value.strip() else value


def _without_default_port(url: str | None) -> str | None:
    """Normalize an `http` or `https` address: lower-case host, no default port, no trailing slash."""
    if url is None:
        return None
    example = "give a full address such as https://stems.example.org"
    parts = urlsplit(url.strip())
    port = parts.port
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(example)
    if "@" in parts.netloc or parts.query or parts.fragment or not url.isascii():
        raise ValueError(f"{example}, without a user name, a query or letters outside ASCII")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is not None and port != {"http": 80, "https": 443}[parts.scheme]:
        host += f":{port}"
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


def _without_path(url: str | None) -> str | None:
    """Refuse an address with a path: the pages could not load their files."""
    if url is not None and urlsplit(url).path:
        raise ValueError("it must not have a path; use a separate host name such as https://stems.example.org")
    return url


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Discord(Section):
    token: SecretStr | None = None
    cdn_hosts: Annotated[list[str], NoDecode]
    allowed_guilds: Annotated[list[int], NoDecode]  # empty: all
    user_install: bool  # users may install the bot for themselves
    contact: str | None = None  # who runs the bot; default: the owner of the application
    message_content: bool
    edit_interval_s: float = Field(gt=0)
    default_model: ModelName
    default_quality: Quality
    default_format: OutputFormat
    proxy: SecretStr | None = None  # http:// or https://; default: HTTPS_PROXY, ALL_PROXY, NO_PROXY
    api_url: str | None = None  # tests: another REST root, "http://127.0.0.1:1234/api/v10"

    _split_hosts = field_validator("cdn_hosts", "allowed_guilds", mode="before")(_split)
    _no_token = field_validator("token", "proxy", "contact", mode="before")(_blank_is_none)

    @field_validator("proxy")
    @classmethod
    def _http_proxy(cls, proxy: SecretStr | None) -> SecretStr | None:
        if proxy is not None and not re.match(r"https?://[^/\s]", proxy.get_secret_value()):
            raise ValueError("give http://proxy.example:3128 (SOCKS proxies cannot be used for Discord)")
        return proxy

    @property
    def proxy_url(self) -> str | None:
        """The configured proxy with its password; never log it."""
        return self.proxy.get_secret_value() if self.proxy is not None else None


class Web(Section):
    host: str
    port: int = Field(ge=0, le=65535)
    public_url: str | None = None  # public address; default: http://host:port
    trusted_proxies: Annotated[list[str], NoDecode]
    api_tokens: Annotated[list[SecretStr], NoDecode]
    open: bool  # serve the API beyond loopback without tokens
    sample: bool  # offer a sample song on the start page
    link_lifetime_days: int = Field(gt=0)
    cdn_url: str | None = None  # for links to files: a CDN that pulls from public_url
    connections: int = Field(gt=0)
    connections_per_address: int = Field(gt=0)
    event_streams: int = Field(gt=0)
    event_streams_per_address: int = Field(gt=0)

    _no_url = field_validator("public_url", "cdn_url", mode="before")(_blank_is_none)
    _full_url = field_validator("public_url", "cdn_url")(_without_default_port)
    _no_path = field_validator("public_url")(_without_path)
    _split_proxies = field_validator("trusted_proxies", "api_tokens", mode="before")(_split)


class Limits(Section):
    jobs_per_hour: int = Field(gt=0)
    queued_per_user: int = Field(gt=0)
    queued_per_scope: int = Field(gt=0)
    queued_total: int = Field(ge=100)
    input_bytes: int = Field(gt=0)
    free_disk_bytes: int = Field(ge=0)
    stored_bytes_per_user: int = Field(ge=0)  # 0: no limit
    blocked_owners: Annotated[list[str], NoDecode]
    input_duration_s: float = Field(gt=0)

    _split_owners = field_validator("blocked_owners", mode="before")(_split)


class Media(Section):
    probe_timeout_s: float = Field(gt=0)
    decode_timeout_s: float = Field(gt=0)
    child_memory_bytes: int = Field(gt=0)


class Workers(Section):
    devices: Annotated[list[str], NoDecode]  # "auto", "cpu", "cuda:0", …
    attempts_per_worker: int = Field(gt=0)  # at the same time on one worker
    max_attempts: int = Field(gt=0)
    heartbeat_s: float = Field(gt=0)
    heartbeat_timeout_s: float = Field(gt=0)
    stall_timeout_s: float = Field(gt=0)
    start_timeout_s: float = Field(gt=0)
    short_track_s: float = Field(gt=0)
    short_timeout_s: float = Field(gt=0)
    long_timeout_s: float = Field(gt=0)
    cancel_grace_s: float = Field(gt=0)
    shutdown_grace_s: float = Field(ge=0)
    threads: int = Field(ge=0)  # of a CPU worker; 0: all cores
    model_memory_bytes: int = Field(gt=0)
    compile: bool
    precision: Literal["auto", "fp32", "tf32", "fp16"]

    _split_devices = field_validator("devices", mode="before")(_split)


class Cluster(Section):
    address: str  # of a Ray head, "host:port"; empty: only this machine
    own_node: bool
    node_ip: str | None = None
    cpus_per_worker: int = Field(ge=0)
    node_dir: Path  # on every node: weights, native libraries


class Retention(Section):
    completed_days: int = Field(gt=0)
    failed_days: int = Field(gt=0)
    stems_days: int = Field(gt=0)
    input_days: int = Field(ge=0)  # 0: songs are deleted when their job is completed
    reuse_results: bool
    sweep_interval_s: float = Field(gt=0)


class Mixes(Section):
    per_hour: int = Field(gt=0)
    per_owner: int = Field(gt=0)
    processes: int = Field(ge=0)  # 0: one for every four CPUs, at least 1
    queue: int = Field(ge=0)
    cpu_s: float = Field(gt=0)
    niceness: int = Field(ge=0, le=19)


class Storage(Section):
    url: str | None = None  # s3://, gs://, az://; without one, data_dir is used
    endpoint: str | None = None
    public_endpoint: str | None = None  # address of the store for browsers; default: endpoint
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    redirect: bool
    redirect_lifetime_s: float = Field(gt=0, le=7 * 86400)  # S3 signs for a week at most
    part_bytes: int = Field(ge=5 * 2**20, le=2**30)  # minimum of S3
    request_timeout_s: float = Field(gt=0)
    patience_s: float = Field(gt=0)

    _none = field_validator(
        "url", "endpoint", "public_endpoint", "region", "access_key_id", "secret_access_key", mode="before"
    )(_blank_is_none)

    @field_validator("url")
    @classmethod
    def _known(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("s3://", "gs://", "az://")):
            raise ValueError("give s3://bucket/folder, gs://bucket/folder or az://container/folder")
        return url


class Youtube(Section):
    enabled: bool
    cookies_file: Path | None = None
    proxy: SecretStr | None = None
    ca_file: Path | None = None
    metadata_timeout_s: float = Field(gt=0)
    total_timeout_s: float = Field(gt=0)
    breaker_pause_s: float = Field(gt=0)


class Log(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    json_lines: bool

    @field_validator("level", mode="before")
    @classmethod
    def _in_capitals(cls, level: object) -> object:
        return level.upper() if isinstance(level, str) else level


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="STEMIFY_", env_nested_delimiter="__", frozen=True, extra="forbid", validate_default=True
    )

    data_dir: Path
    models_dir: Path | None = None
    discord: Discord
    web: Web
    limits: Limits
    media: Media
    workers: Workers
    cluster: Cluster
    retention: Retention
    mixes: Mixes
    storage: Storage
    youtube: Youtube
    log: Log

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = os.environ.get("STEMIFY_CONFIG")
        files = [DEFAULTS, *([Path(path)] if path else [])]
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=files, deep_merge=True)


def load(**overrides: Any) -> Settings:
    """Return the settings. Raises `ConfigurationError` for invalid values and missing files."""
    path = os.environ.get("STEMIFY_CONFIG")
    if path and not Path(path).is_file():
        raise ConfigurationError(f"STEMIFY_CONFIG is {path}, which is not a file.")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigurationError("\n".join(describe_errors(error, variable_names(Settings)))) from None
    except (TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"The file {path} (STEMIFY_CONFIG) cannot be read: {error}.") from None
    except SettingsError as error:  # a whole section in one variable that is not JSON
        raise ConfigurationError(f"The settings cannot be read: {error}. Use one variable for each setting.") from None
