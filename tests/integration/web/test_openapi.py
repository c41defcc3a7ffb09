"""The API matches its OpenAPI description and its documentation."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import requests
import schemathesis
from aiopenapi3 import OpenAPI
from aiopenapi3.plugin import Document
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis.strategies import booleans
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from config.settings import load
from engine.media.decode import decode
from engine.web.openapi import openapi
from tests.fixtures.backend_server import served
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

ROOT = Path(__file__).parents[3]
DOCUMENTED_ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a backend with a tiny model."""
    folder = tmp_path_factory.mktemp("api")
    write_model(folder / "models")
    loaded = load(data_dir=folder / "data", models_dir=folder / "models")
    changed = {
        "web": loaded.web.model_copy(update={"port": 0}),
        "limits": loaded.limits.model_copy(update={"jobs_per_hour": 20}),
        "workers": loaded.workers.model_copy(update={"devices": ["cpu"], "threads": 1, "compile": False}),
        "youtube": loaded.youtube.model_copy(update={"enabled": False}),
        "mixes": loaded.mixes.model_copy(update={"niceness": 0, "per_hour": 6}),
    }
    with served(loaded.model_copy(update=changed)) as url:
        yield url


class _WithAFile(Document):  # type: ignore[misc]
    """A client document that selects the multipart body."""

    def parsed(self, ctx: Any) -> Any:
        ctx.document["paths"]["/api/stemify"]["post"]["requestBody"]["content"].pop("application/json")
        return ctx


def test_generated_client_submits_watches_and_downloads(url: str, tmp_path: Path) -> None:
    mix = make_song(tmp_path / "Sunny.wav", seconds=2)
    client = OpenAPI.load_sync(f"{url}/api/openapi.json", plugins=[_WithAFile()])
    options = {"quality": "fast", "outputFormat": "wav"}
    with (tmp_path / "Sunny.wav").open("rb") as song:
        accepted = client._.stemify(data=[("options", json.dumps(options)), ("file", ("Sunny.wav", song, "audio/wav"))])
    assert accepted.status == "pending"
    which = {"jobId": accepted.jobId}

    events = client._.watchJob(parameters=which).decode()
    states = [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line.startswith("data: ")]
    assert [state["progress"] for state in states] == sorted(state["progress"] for state in states)
    assert states[-1]["status"] == "completed"

    job = client._.getJob(parameters=which)
    assert (job.status, job.progress) == ("completed", 100)
    assert client._.listJobs(parameters={"limit": 1}).jobs[0].jobId == accepted.jobId
    assert client._.getLimits().inputBytes > 0
    assert "mini" in [model.name for model in client._.getModels().models]
    with zipfile.ZipFile(io.BytesIO(client._.downloadStems(parameters=which))) as archive:
        assert len(archive.namelist()) == 4
        archive.extractall(tmp_path / "stems")
    total = np.zeros_like(mix)
    for path in sorted((tmp_path / "stems").iterdir()):
        decoded = decode(path, tmp_path / "raw", max_duration_s=60)
        assert (decoded.sample_rate, decoded.samples) == (44100, mix.shape[1])
        total += np.fromfile(tmp_path / "raw", np.float32).reshape(-1, decoded.channels).T
    assert np.isfinite(total).all() and np.abs(total).max() > 0

    link = urlsplit(states[-1]["result"]["stems"]["vocals"]["cdnUrl"])
    _, _, _, job_id, attempt, filename = link.path.split("/")
    named = {
        "jobId": job_id,
        "attempt": attempt,
        "filename": filename.replace("%20", " "),
        **dict(parse_qsl(link.query)),
    }
    assert client._.getFile(parameters=named)[:4] == b"RIFF"
    client._.removeJob(parameters=which)
    with pytest.raises(Exception, match="404"):
        client._.getJob(parameters=which)


@pytest.fixture(scope="module")
def description(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/api/openapi.json")


OPERATIONS = [
    (method.upper(), path)
    for path, item in openapi(wants_token=False)["paths"].items()
    for method in item
    if method != "parameters"
]


@pytest.fixture(scope="module")
def done_job(url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Submit a job, wait until it completes and return its id."""
    song = tmp_path_factory.mktemp("song") / "song.mp3"
    make_song(song, seconds=1)
    answer = requests.post(f"{url}/api/stemify", files={"file": song.read_bytes()}, timeout=60)
    job_id = str(answer.json()["jobId"])
    assert "completed" in requests.get(f"{url}/api/jobs/{job_id}/events", timeout=60).text
    return job_id


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_response_is_documented(description: Any, done_job: str, method: str, path: str) -> None:
    operation = description[path][method]
    good, bad = (operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)
    checks = [
        schemathesis.checks.not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
    ]

    @given(case=good | bad if operation.body or operation.query else good, known=booleans())
    @hypothesis_settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answers_as_documented(case: Any, known: bool) -> None:
        if known and "jobId" in case.path_parameters:
            case.path_parameters["jobId"] = done_job
        case.call_and_validate(checks=checks, timeout=30)

    answers_as_documented()


def examples(path: Path) -> list[tuple[str, Any]]:
    """Return the shell examples of a page, each with the JSON shown after it, if any."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    found: list[tuple[str, Any]] = []
    for language, text in blocks:
        if language == "sh" and f"{DOCUMENTED_ADDRESS}/" in text:
            found.append((text, None))
        elif language == "json" and found:
            found[-1] = (found[-1][0], json.loads(text))
    return found


def shape(value: Any) -> Any:
    """Return the keys of a JSON value at every depth."""
    return {name: shape(each) for name, each in value.items()} if isinstance(value, dict) else None


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="the examples are for curl")
@pytest.mark.parametrize("page", ["docs/api.md", "README.md"])
def test_documented_examples_work(url: str, tmp_path: Path, page: str) -> None:
    found = examples(ROOT / page)
    assert found
    make_song(tmp_path / "song.mp3", seconds=1)
    script = ["set -euo pipefail"]
    for number, (text, _) in enumerate(found):
        shell = text.replace(DOCUMENTED_ADDRESS, url)
        script.append(f"{{\n{shell}\n}} > {number}.out")
    run = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        env=os.environ,
    )
    assert run.returncode == 0, run.stderr
    for number, (text, shown) in enumerate(found):
        if shown is not None:
            answer = json.loads((tmp_path / f"{number}.out").read_text())
            assert shape(answer) == shape(shown), text
    if page == "docs/api.md":
        assert zipfile.ZipFile(tmp_path / "stems.zip").testzip() is None
        assert (tmp_path / "vocals.mp3").read_bytes()[:100] == (tmp_path / "beginning.mp3").read_bytes()
