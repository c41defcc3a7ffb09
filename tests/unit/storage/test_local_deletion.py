"""Local storage deletes files of jobs only, and lists them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.jobs.entity import new_job_id
from engine.storage.local import LocalStorage
from tests.fixtures.local_files import JOB, KEY, files, put

DECOYS = (
    "stemify.sqlite3",
    "models/htdemucs/weights.th",
    "keys/links.key",
    "archive/2026-11.sqlite3",
    "jobs/readme.txt",
    "jobs/not-a-job/input",
    f"jobs/{JOB}.bak/input",
    f"jobs/{JOB.upper()}/input",
    f"jobs/x{JOB}/input",
    f"scratch/{JOB}/file",
    f"scratch/{JOB}-a0/file",
    f"scratch/{JOB}-a1x/file",
    "scratch/other/file",
    f"other/{JOB}/input",
)


async def test_only_files_of_the_job_are_deleted(storage: LocalStorage) -> None:
    for decoy in DECOYS:
        put(storage, decoy)
    before = files(storage)
    for own in (KEY, f"jobs/{JOB}/a1/v.mp3", f"scratch/{JOB}-a1/raw", f"scratch/{JOB}-a12/deep/raw"):
        put(storage, own)
    await storage.delete_job(JOB)
    assert files(storage) == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(
        [
            "",
            ".",
            "/",
            "jobs",
            "scratch",
            "models",
            "keys",
            "jobs/..",
            "jobs/*",
            f"jobs/{JOB}/..",
            f"jobs/{JOB}/input",
            f"jobs/{JOB}\n",
            f"jobs/{JOB}/a0",
            f"scratch/{JOB}-a1/..",
            f"jobs/{JOB}/a1/../../..",
        ]
    )
    | st.text(max_size=30)
)
async def test_delete_tree_rejects_other_folders(storage: LocalStorage, prefix: str) -> None:
    with pytest.raises(ValueError, match="not a job folder"):
        await storage.delete_tree(prefix)


async def test_symlinks_in_job_are_removed_without_targets(storage: LocalStorage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("keep")
    put(storage, KEY)
    (storage.root / f"jobs/{JOB}/a1").symlink_to(outside)
    await storage.delete_tree(f"jobs/{JOB}/a1")
    assert (outside / "file").exists()
    await storage.delete_job(JOB)
    assert not (storage.root / f"jobs/{JOB}").exists()
    assert (outside / "file").read_text() == "keep"


async def test_tidy_job_keeps_result_and_wanted_input(storage: LocalStorage) -> None:
    for own in (KEY, f"jobs/{JOB}/.input.12.part", f"jobs/{JOB}/a1/v", f"jobs/{JOB}/a2/v", f"scratch/{JOB}-a2/r"):
        put(storage, own)
    put(storage, f"jobs/{JOB}/notes.txt")
    await storage.tidy_job(JOB, keep_attempt=2, keep_input=True)
    assert {key for key in files(storage) if key.startswith(f"jobs/{JOB}/")} == {
        KEY, f"jobs/{JOB}/.input.12.part", f"jobs/{JOB}/a2", f"jobs/{JOB}/a2/v", f"jobs/{JOB}/notes.txt"
    }  # fmt: skip
    await storage.tidy_job(JOB, keep_attempt=2, keep_input=False)
    assert not (storage.root / KEY).exists()
    assert (storage.root / f"jobs/{JOB}/a2/v").exists()
    assert (storage.root / f"jobs/{JOB}/notes.txt").exists()
    assert storage.scratch_on_disk() == []


async def test_tidy_job_without_result_leaves_no_folder(storage: LocalStorage) -> None:
    put(storage, KEY)
    await storage.tidy_job(JOB, keep_attempt=None, keep_input=False)
    assert files(storage) == {"jobs"}
    await storage.tidy_job("../keys", keep_attempt=None, keep_input=False)
    await storage.tidy_job(new_job_id(), keep_attempt=None, keep_input=False)


async def test_jobs_and_scratch_on_disk_are_listed(storage: LocalStorage) -> None:
    assert storage.jobs_on_disk() == [] and storage.scratch_on_disk() == []
    for decoy in DECOYS:
        put(storage, decoy)
    put(storage, f"jobs/{JOB}/a1/v")
    put(storage, f"scratch/{JOB}-a3/r")
    assert storage.jobs_on_disk() == [JOB]
    assert storage.scratch_on_disk() == [(f"{JOB}-a3", JOB)]
    assert storage.has_result(JOB) and not storage.has_result(new_job_id())
