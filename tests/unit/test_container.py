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
from tests.web_house import open_web_house

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"


@pytest.fixture
def services() -> dict[str, dict[str, Any]]:
    """Those of our own image."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return {name: service for name, service in found.items() if "build" in service}


def stages() -> list[list[tuple[str, str]]]:
    """The Dockerfile's stages, each a list of (instruction, arguments)."""
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


def test_the_containers_can_write_their_volume_and_tmp_and_gain_no_rights(services: dict[str, dict[str, Any]]) -> None:
    volumes = {"stemify": "data", "stemify-cuda": "data", "stemify-cluster": "data", "ray-worker": "node"}
    assert set(services) == {*volumes, "ray-head"}
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]
        assert service.get("volumes", []) == ([f"{volumes[name]}:/data"] if name in volumes else [])
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service and "cap_add" not in service
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "a TLS proxy goes before it"
        assert service["restart"] == "unless-stopped"


def test_compose_waits_longer_for_the_end_than_the_bot_does(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        grace_s = int(service["stop_grace_period"].removesuffix("s"))
        assert grace_s >= load().workers.shutdown_grace_s + 10
    assert of(stages()[-1], "STOPSIGNAL") == ["SIGTERM"]
    assert of(stages()[-1], "CMD") == ['["python", "-m", "bot"]'], "no shell that would swallow the signal"


def test_one_build_argument_chooses_between_cpu_and_cuda(services: dict[str, dict[str, Any]]) -> None:
    build, _ = stages()
    assert "TORCH=cpu" in of(build, "ARG")
    (install,) = [line for line in of(build, "RUN") if "pip install" in line]
    assert 'if [ "$TORCH" = cpu ]' in install and "download.pytorch.org/whl/cpu" in install
    assert "-c constraints.txt" in install, "the versions that were tested"
    assert services["stemify"]["build"] == "."
    assert services["stemify-cuda"]["build"]["args"] == {"TORCH": "cuda"}
    (device,) = services["stemify-cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_the_image_runs_as_nobody_special_and_has_all_that_the_program_needs() -> None:
    build, final = stages()
    (user,) = of(final, "USER")
    assert re.search(rf"useradd .*--uid [1-9]\d{{3,}} {user}\b", " ".join(of(final, "RUN")))
    names = [name for name, _ in final]
    assert names.index("USER") > names.index("RUN") and names.index("USER") < names.index("CMD")
    copied = {name for line in of(build, "COPY") for name in line.split()[:-1]}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {name.partition(".")[0] for name in packages} <= copied
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name in copied:
        assert (ROOT / name).exists() and name not in ignored
    settings = dict(part.split("=", 1) for line in of(final, "ENV") for part in line.split())
    assert settings["STEMIFY_DATA_DIR"] == "/data" and of(final, "VOLUME") == ["/data"]
    assert settings["HOME"] == "/tmp", "the home folder is read-only"


def test_only_what_serves_pages_is_asked_for_its_health(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service.get("healthcheck", {}).get("disable", False) == name.startswith("ray-"), name


async def test_the_health_check_tells_a_server_that_answers_from_one_that_does_not(tmp_path: Path) -> None:
    (check,) = of(stages()[-1], "HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    port = str(load().web.port)
    assert of(stages()[-1], "EXPOSE") == [port] and f":{port}/healthz" in command[-1]

    async def healthy(port_now: str) -> bool:
        words = [sys.executable, *command[1:-1], command[-1].replace(f":{port}/", f":{port_now}/")]
        process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.DEVNULL)
        return await process.wait() == 0

    async with open_web_house(tmp_path) as house:
        port_now = house.url.rpartition(":")[2]
        assert await healthy(port_now)
    assert not await healthy(port_now)
