"""Separate one file on the command line: one worker and one attempt, without job store and queue."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from config.settings import Settings
from engine.backend import media_limits, pool_limits, worker_config
from engine.errors import InputRefused, WorkerDied
from engine.jobs.entity import new_job_id
from engine.jobs.job import Stage, overall_progress
from engine.jobs.options import StemSeparationOptions
from engine.jobs.results import JobResult, StemFiles
from engine.media.sandbox import probe_in_sandbox
from engine.pool.devices import find_devices
from engine.pool.pool import WorkerPool
from engine.text import safe_title
from engine.worker.protocol import AttemptSpec


async def separate_file(
    settings: Settings,
    song: Path,
    out: Path,
    options: StemSeparationOptions,
    *,
    shifts: int | None,
    overlap: float | None,
    seed: int,
    device: str,
    on_progress: Callable[[Stage, int], None],
) -> JobResult:
    """Separate `song` into the folder `out`, which is created if needed.

    Stems are named after the file, since two files may have the same tags. Earlier stems of the same file are replaced.
    Paths in the result are those of the files. Raises `InputRefused`, `DeviceNotFound` and `AttemptError`s.
    """
    if not song.is_file():
        raise InputRefused(f"{song} is a folder. Give a file." if song.is_dir() else f"There is no file {song}.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputRefused(
            f"The folder {out} cannot be created: {error.strerror}. Choose another with --out."
        ) from error
    limits = media_limits(settings)
    device = (await find_devices([device]))[0]
    metadata = await probe_in_sandbox(song, limits)
    with tempfile.TemporaryDirectory(prefix=".stemify-", dir=out) as work:
        config = worker_config(settings, device).model_copy(
            update={"data_dir": str(Path(work).absolute()), "storage": None}
        )
        await asyncio.to_thread(shutil.copyfile, song, Path(work) / "song")
        pool = WorkerPool([config], pool_limits(settings.workers))
        await pool.start()
        try:
            if not await pool.wait_ready(settings.workers.start_timeout_s):
                raise WorkerDied(f"The worker for {device} did not start. See the messages above.")
            spec = AttemptSpec(
                job_id=new_job_id(),
                attempt=1,
                input_key="song",
                scratch_key="scratch",
                output_key="done",
                options=options,
                title=safe_title(metadata.title or song.stem),
                artist=metadata.artist,
                seed=seed,
                max_duration_s=limits.max_duration_s,
                shifts=shifts,
                overlap=overlap,
            )
            done = await pool.run(
                spec,
                timeout_s=float("inf"),
                on_progress=lambda stage, fraction: on_progress(stage, overall_progress(stage, fraction)),
            )
        finally:
            await pool.stop()
        rename = partial(_output_name, title=spec.title, prefix=safe_title(song.stem))
        for file in (Path(work) / "done").iterdir():
            await asyncio.to_thread(_move, file, out / rename(file.name))
    return _relocate(done.result, out, rename)


def _move(file: Path, target: Path) -> None:
    """Move a file from the worker's private folder; give it the mode of a new file of the user."""
    target.touch()
    with contextlib.suppress(OSError):  # a file system without modes
        file.chmod(stat.S_IMODE(target.stat().st_mode))
    shutil.move(file, target)


def _output_name(name: str, *, title: str, prefix: str) -> str:
    """Replace the job's `title` at the start of a file name by `prefix`."""
    return f"{prefix} - {name.removeprefix(f'{title} - ')}"


def _relocate(result: JobResult, out: Path, rename: Callable[[str], str]) -> JobResult:
    stems = {}
    for name, info in result.stems:
        filename = rename(info.filename)
        stems[name] = {**info.model_dump(), "filename": filename, "path": str(out / filename)}
    music = result.music
    if music is not None:
        paths = {"beats_path": music.beats_path, "chords_path": music.chords_path}
        music = music.model_copy(
            update={field: str(out / rename(Path(path).name)) for field, path in paths.items() if path is not None}
        )
    return result.model_copy(
        update={
            "music": music,
            "output_dir": str(out),
            "stems": StemFiles.model_validate(stems),
            "waveform_path": str(out / rename("waveform.png")),
            "peaks_path": str(out / rename("peaks.json")),
        }
    )
