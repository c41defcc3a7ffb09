"""What the files for Docker promise, read from them: no Docker is needed here."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings import load
from engine.web import health_check
from image.lock import FILES, pinned
from tests.fixtures.web_backend import open_web_server

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
OF_THE_BOT = ("stemify", "stemify-cuda", "stemify-amd", "stemify-cluster")


@pytest.fixture
def services() -> dict[str, dict[str, Any]]:
    """Return the services that use our image."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return {name: service for name, service in found.items() if "build" in service}


def stages() -> list[list[tuple[str, str]]]:
    """Return the Dockerfile's stages, each a list of (instruction, arguments)."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    found: list[list[tuple[str, str]]] = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            instruction, _, arguments = line.partition(" ")
            if instruction == "FROM":
                found.append([])
            found[-1].append((instruction, arguments.strip()))
    return found


def of(stage: list[tuple[str, str]], instruction: str) -> list[str]:
    return [arguments for name, arguments in stage if name == instruction]


def validated(path: Path) -> subprocess.CompletedProcess[str]:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(check, capture_output=True, text=True, check=False)


def test_the_compose_file_is_what_the_specification_allows(tmp_path: Path) -> None:
    assert validated(COMPOSE).returncode == 0, validated(COMPOSE).stdout
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("read_only: true", "read_only: [yes]"))
    assert validated(wrong).returncode == 1, "the check can fail"


def test_containers_write_only_volume_and_tmp(services: dict[str, dict[str, Any]]) -> None:
    volumes = {**dict.fromkeys(OF_THE_BOT, "data"), "ray-worker": "node"}
    assert set(services) == {*volumes, "ray-head"}
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp:size=1g,mode=1777"], "half of the memory by default"
        assert service["mem_limit"] and service["pids_limit"]
        assert service.get("volumes", []) == ([f"{volumes[name]}:/data"] if name in volumes else [])
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service and "cap_add" not in service
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "a TLS proxy goes before it"
        assert service["restart"] == "unless-stopped"


def test_only_containers_of_the_bot_get_its_secrets(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        given = json.dumps([service.get("env_file"), service.get("environment")])
        runs_the_bot = name in OF_THE_BOT
        assert (".env" in given) == runs_the_bot, name
        for secret in ("STEMIFY_DISCORD__TOKEN", "STEMIFY_WEB__API_TOKENS"):
            assert (secret in given) == runs_the_bot, name
        assert ("STORE_PASSWORD" in given) == (name == "stemify-cluster"), name
        if name.startswith("ray-"):
            assert "--disable-usage-stats" in service["command"]


def store_services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return {name: service for name, service in found.items() if "build" not in service}


def test_store_is_hardened_and_listens_on_loopback() -> None:
    assert set(store_services()) == {"store", "store-bucket"}
    for service in store_services().values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"] != "0:0"
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"] and service["pids_limit"]
        assert re.fullmatch(r"[\w/]+:\d+\.\d+", service["image"]), "a version"
    command = store_services()["store"]["command"][0]
    assert "-ip.bind=127.0.0.1" in command and store_services()["store"]["environment"]["STORE_BIND"].endswith(
        "127.0.0.1}"
    )
    assert f"-volume.port={load().web.port}" not in command and "-volume.port=" in command, "8080 is its default, too"


def test_store_has_one_user_for_one_bucket(tmp_path: Path) -> None:
    weed = tmp_path / "weed"
    weed.write_text('#!/bin/sh\necho started "$@"\n')
    weed.chmod(0o755)
    script = store_services()["store"]["command"][0].replace("$$", "$").replace("/tmp/", f"{tmp_path}/")

    def start(password: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path}:/usr/bin:/bin"
        given = {"PATH": path, "STORE_USER": "stemify", "STORE_PASSWORD": password, "STORE_BIND": "127.0.0.1"}
        return subprocess.run(["sh", "-ceu", script], env=given, capture_output=True, text=True, check=False)

    assert start("short").returncode == 1 and start("").returncode == 1
    done = start("a-password-of-good-length")
    assert done.returncode == 0 and "started server -dir=/data" in done.stdout, done.stderr
    (user,) = json.loads((tmp_path / "s3.json").read_text())["identities"]
    assert user["credentials"] == [{"accessKey": "stemify", "secretKey": "a-password-of-good-length"}]
    assert all(action.endswith(":stemify") and not action.startswith("Admin") for action in user["actions"])
    assert (tmp_path / "s3.json").stat().st_mode & 0o077 == 0


def test_compose_waits_longer_for_the_end_than_the_bot_does(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        grace_s = int(service["stop_grace_period"].removesuffix("s"))
        assert grace_s >= load().workers.shutdown_grace_s + 10
    assert of(stages()[-1], "STOPSIGNAL") == ["SIGTERM"]
    assert of(stages()[-1], "CMD") == ['["python", "-m", "bot"]'], "no shell that would swallow the signal"


def test_one_build_argument_chooses_the_torch_build(services: dict[str, dict[str, Any]]) -> None:
    build, _ = stages()
    assert "TORCH=cpu" in of(build, "ARG")
    by_hash, torch, own = [line for line in of(build, "RUN") if "pip install" in line]
    assert by_hash.count("pip install") == by_hash.count("--require-hashes --no-deps") == 2
    assert "index-url" not in by_hash + own, "from PyPI alone"
    assert 'if [ "$TORCH" = cpu ]' in torch and "--no-deps --index-url https://download.pytorch.org/whl/cpu" in torch
    assert "-c constraints.txt" in torch and "extra-index-url" not in torch, "a name comes from one index only"
    assert "--no-deps --no-build-isolation" in own and "pip check" in own
    assert services["stemify"]["build"]["args"] == {"EXTRAS": "${EXTRAS:-}"}
    assert services["stemify-cuda"]["build"]["args"] == {"EXTRAS": "${EXTRAS:-}", "TORCH": "cuda"}
    (device,) = services["stemify-cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert '--index-url "https://download.pytorch.org/whl/$TORCH"' in torch
    assert services["stemify-amd"]["devices"] == ["/dev/kfd", "/dev/dri"]


@pytest.mark.skipif(
    f"python:{sys.version_info.major}.{sys.version_info.minor}-slim" not in (ROOT / "Dockerfile").read_text(),
    reason="the image has another Python, whose packages may differ",
)
@pytest.mark.parametrize("name", FILES)
def test_image_requirements_are_complete_and_as_tested(name: str) -> None:
    text = "".join((ROOT / "image" / file).read_text() for file in {"requirements.txt", name})
    listed = set(re.findall(r"^([\w.-]+==[\w.]+)", text, re.MULTILINE))
    assert listed == set(pinned(FILES[name])), "run: python image/lock.py"
    assert len(re.findall(r"^[\w.-]+==[^\n]+\\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)) == len(listed)
    tested = {line.lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    normal = {line.replace(".py==", "-py==") for line in tested}
    assert listed - {line for line in listed if line.startswith("setuptools==")} <= normal


def test_image_runs_unprivileged() -> None:
    build, final = stages()
    (user,) = of(final, "USER")
    assert re.search(rf"useradd .*--uid [1-9]\d{{3,}} {user}\b", " ".join(of(final, "RUN")))
    names = [name for name, _ in final]
    assert names.index("USER") > names.index("RUN") and names.index("USER") < names.index("CMD")
    copied = {name for line in of(build, "COPY") for name in line.split()[:-1]}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert packages and {name.removesuffix("*") for name in packages} <= copied
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name in copied:
        assert (ROOT / name).exists() and name not in ignored
    assert ".env" in ignored, "it has the tokens"
    settings = dict(part.split("=", 1) for line in of(final, "ENV") for part in line.split())
    assert settings["STEMIFY_DATA_DIR"] == "/data" and of(final, "VOLUME") == ["/data"]
    assert settings["HOME"] == "/tmp", "the home folder is read-only"


def test_only_what_serves_pages_is_asked_for_its_health(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service.get("healthcheck", {}).get("disable", False) == name.startswith("ray-"), name


async def test_health_check_detects_dead_server(tmp_path: Path) -> None:
    (check,) = of(stages()[-1], "HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    port = str(load().web.port)
    assert of(stages()[-1], "EXPOSE") == [port]
    own = tmp_path / "own.toml"

    async def healthy(port_now: str) -> bool:
        own.write_text(f"[web]\nport = {port_now}\n")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command[1:], stderr=asyncio.subprocess.DEVNULL, cwd=ROOT, env={"STEMIFY_CONFIG": str(own)}
        )
        return await process.wait() == 0

    async with open_web_server(tmp_path) as server:
        port_now = server.url.rpartition(":")[2]
        assert await healthy(port_now)
    assert not await healthy(port_now)


@pytest.mark.parametrize(
    ("host", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("10.0.0.1", "10.0.0.1"), ("::1", "[::1]")]
)
def test_health_check_asks_where_the_server_listens(host: str, asked: str) -> None:
    web = load().web.model_copy(update={"host": host, "port": 9000})
    assert health_check.url(web) == f"http://{asked}:9000/healthz"
