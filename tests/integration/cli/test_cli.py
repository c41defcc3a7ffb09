"""`python -m engine` in a child process."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import av
import pytest

from engine.database.job_store import JobStore
from engine.database.lock import exclusive_lock
from engine.jobs.job import Job
from engine.jobs.results import JobResult
from tests.fixtures.command_line import run
from tests.fixtures.jobs import NO_QUEUE_LIMITS, pending_job
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder)
    return folder


def test_ascii_output_escapes_other_characters(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    song, out = tmp_path / "Café.wav", tmp_path / "out"
    make_song(song, seconds=2)
    done = run(tmp_path / "data", models_dir, "separate", song, "--out", out, "--shifts", 0, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "Caf\\xe9 - " in done.stdout
    assert list(out.glob("Café - *"))


def test_output_files_follow_umask(tmp_path: Path, models_dir: Path) -> None:
    song, out = tmp_path / "song.wav", tmp_path / "out"
    make_song(song, seconds=2)
    before = os.umask(0o027)
    try:
        done = run(tmp_path / "data", models_dir, "separate", song, "--out", out, "--shifts", 0, "--device", "cpu")
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    modes = {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()}
    assert modes == {0o640} and stat.S_IMODE(out.stat().st_mode) == 0o750


def test_separate_prints_json_and_progress_on_stderr(tmp_path: Path, models_dir: Path) -> None:
    song, out = tmp_path / "song.wav", tmp_path / "out"
    make_song(song, seconds=3)
    done = run(
        tmp_path / "data", models_dir, "separate", song, "--out", out, "--format", "flac", "--shifts", 0,
        "--overlap", 0.1, "--seed", 7, "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert {"jobId", "outputDir", "processingTime"} < set(printed), "camelCase, as in the API"
    result = JobResult.model_validate(printed)
    assert result.trust is not None
    assert (result.trust.shifts, result.trust.overlap, result.trust.seed) == (0, 0.1, 7)
    for _, info in result.stems:
        assert Path(info.path).parent == out and Path(info.path).stat().st_size == info.size
    assert "100%" in done.stderr and "INFO" not in done.stderr
    left = sorted(path.name for path in out.iterdir() if path.suffix != ".flac")
    assert left == ["song - peaks.json", "song - waveform.png"], "no scratch is left"
    assert result.waveform_path == str(out / "song - waveform.png") and Path(result.waveform_path).is_file()
    assert result.peaks_path is not None and Path(result.peaks_path).is_file()


def test_refused_input_exits_with_two(tmp_path: Path, models_dir: Path) -> None:
    text = tmp_path / "song.mp3"
    text.write_text("not a song")
    done = run(tmp_path / "data", models_dir, "separate", text, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "not an audio file" in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    missing = run(tmp_path / "data", models_dir, "separate", tmp_path / "nothing.wav")
    assert missing.returncode == 2 and "There is no such file" in missing.stderr
    unknown = run(tmp_path / "data", models_dir, "separate", text, "--model", "spleeter")
    assert unknown.returncode == 2 and "There is no model" in unknown.stderr


def test_failure_exits_with_one(tmp_path: Path) -> None:
    models, song = tmp_path / "models", tmp_path / "song.wav"
    write_model(models)
    next(models.glob("*.safetensors")).write_bytes(b"damaged")
    make_song(song, seconds=1)
    done = run(tmp_path / "data", models, "separate", song, "--out", tmp_path / "out", "--device", "cpu")
    assert done.returncode == 1
    assert "damaged" in done.stderr and "Traceback" not in done.stderr


def test_forget_deletes_only_one_owner(tmp_path: Path, models_dir: Path) -> None:
    data = tmp_path / "data"

    async def prepare() -> list[Job]:
        store = await JobStore.open(data / "stemify.sqlite3")
        jobs = [pending_job("discord:1"), pending_job("discord:1"), pending_job("discord:2")]
        for job in jobs:
            await store.add(job, NO_QUEUE_LIMITS)
            (data / "jobs" / job.id).mkdir(parents=True)
            (data / "jobs" / job.id / "input").write_bytes(b"x")
        await store.close()
        return jobs

    jobs = asyncio.run(prepare())
    with exclusive_lock(data / "stemify.lock"):
        refused = run(data, models_dir, "forget", "discord:1")
    assert refused.returncode == 1 and "Stop it, or" in refused.stderr
    typo = run(data, models_dir, "forget", "1")
    assert typo.returncode == 2 and "Use discord:<user id>" in typo.stderr
    done = run(data, models_dir, "forget", "discord:1")
    assert done.stdout == "2 jobs deleted\n", done.stderr
    assert [path.name for path in (data / "jobs").iterdir()] == [jobs[2].id]
    with closing(sqlite3.connect(data / "stemify.sqlite3")) as store:
        assert store.execute("SELECT owner FROM jobs UNION SELECT owner FROM owners").fetchall() == [("discord:2",)]


def test_same_tags_give_distinct_file_names(tmp_path: Path, models_dir: Path) -> None:
    out = tmp_path / "out"
    for name in ("Größe & Ärger – live.flac", "Größe & Ärger.flac"):
        make_song(tmp_path / name, seconds=1, container="flac", codec="flac", tags={"title": "Sunny"})
        done = run(tmp_path / "data", models_dir, "separate", tmp_path / name, "--out", out, "--device", "cpu")
        assert done.returncode == 0, done.stderr
    stems = sorted(path.name for path in out.glob("*vocals*"))
    assert stems == ["Größe & Ärger - vocals - htdemucs.mp3", "Größe & Ärger – live - vocals - htdemucs.mp3"]
    with av.open(out / stems[0]) as stem:
        assert stem.metadata["title"] == "Sunny (vocals)"


def test_link_is_refused_with_hint(tmp_path: Path, models_dir: Path) -> None:
    refused = run(tmp_path / "data", models_dir, "separate", "https://youtu.be/dQw4w9WgXcQ")
    assert refused.returncode == 2
    assert "links work in Discord, on the web page and in the API only; give a file" in refused.stderr


def test_closed_pipe_exits_with_zero(tmp_path: Path, models_dir: Path) -> None:
    make_song(tmp_path / "song.wav", seconds=1)
    command = f"{sys.executable} -m engine separate {tmp_path}/song.wav --out {tmp_path} --device cpu"
    command += " | true; echo ${PIPESTATUS[0]}"
    environment = {**os.environ, "STEMIFY_DATA_DIR": str(tmp_path), "STEMIFY_MODELS_DIR": str(models_dir)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "0" and "Broken" not in done.stderr


def test_models_list_and_check_cover_every_model(tmp_path: Path, models_dir: Path) -> None:
    listed = run(tmp_path / "data", models_dir, "models", "list")
    assert listed.returncode == 0
    for name in ("htdemucs", "htdemucs_ft", "htdemucs_6s", "hdemucs_mmi", "mdx_extra", "mdx_extra_q", "mini"):
        assert name in listed.stdout
    about = " ".join(listed.stdout.partition("melband_vocals")[2].partition("mini")[0].split())
    for trait in ("vocals, instrumental", "6.8x the time", "GPU advisable", "weights: MIT", "not downloaded, 913 MB"):
        assert trait in about
    assert "huggingface.co/KimberleyJSN/melbandroformer" in about
    checked = run(tmp_path / "data", models_dir, "models", "check")
    assert checked.returncode == 0, checked.stdout
    assert "loads" in checked.stdout and "diffq" in checked.stdout


def test_unknown_device_is_refused(tmp_path: Path, models_dir: Path) -> None:
    make_song(tmp_path / "song.wav", seconds=1)
    for device in ("cuda:9", "tpu"):
        done = run(tmp_path / "data", models_dir, "separate", tmp_path / "song.wav", "--device", device)
        assert done.returncode == 1
        assert f"This machine has no device {device} that PyTorch can use. Choose one of: auto, " in done.stderr
        assert "Traceback" not in done.stderr
