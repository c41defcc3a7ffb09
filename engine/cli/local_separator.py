"""Separate files of this machine with one worker, without job store and queue."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from config.settings import Settings
from engine.backend import pool_limits, worker_config
from engine.errors import InputRefused, StorageFailed, WorkerDied
from engine.jobs.entity import new_job_id
from engine.jobs.job import Stage, overall_progress
from engine.jobs.options import StemSeparationOptions
from engine.jobs.results import JobResult, StemFiles
from engine.media.decode import Probe
from engine.media.limits import MediaLimits
from engine.pool.pool import WorkerPool
from engine.storage.disk import make_folder
from engine.text import safe_title
from engine.worker.protocol import AttemptSpec


@dataclass(frozen=True)
class PlanOptions:
    """Parameters of the separation that only the command line offers; None: by quality."""

    shifts: int | None
    overlap: float | None
    seed: int


class LocalSeparator:
    """A worker and its scratch in the output folder, which is created if needed and removed if it stays empty."""

    def __init__(self, settings: Settings, device: str, out: Path, limits: MediaLimits) -> None:
        self._settings = settings
        self._device = device
        self._out = out
        self._limits = limits
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the worker. Raises `InputRefused` if the output folder cannot be created."""
        async with AsyncExitStack() as exits:
            exits.callback(_remove_empty, _make_output_folder(self._out))
            work = exits.enter_context(tempfile.TemporaryDirectory(prefix=".stemify-", dir=self._out))
            self._work = Path(work).absolute()
            config = worker_config(self._settings, self._device).model_copy(
                update={
                    "data_dir": str(self._work),
                    "storage": None,
                    "input_bytes": self._limits.max_bytes,
                    "decode_timeout_s": self._limits.timeout_s,
                }
            )
            self._pool = WorkerPool([config], pool_limits(self._settings.workers))
            exits.push_async_callback(self._pool.stop)
            await self._pool.start()
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def ready_models(self) -> list[str]:
        """Return the models that are on this machine. Raises `WorkerDied`."""
        await self._wait_for_worker()
        return [name for name, state in self._pool.models.items() if state.state == "ready"]

    async def _wait_for_worker(self) -> None:
        if not await self._pool.wait_ready(self._settings.workers.start_timeout_s):
            raise WorkerDied(f"The worker for {self._device} did not start. See the messages above.")

    async def separate(
        self,
        song: Path,
        found: Probe,
        out: Path,
        options: StemSeparationOptions,
        plan: PlanOptions,
        *,
        on_progress: Callable[[Stage, int], None],
    ) -> JobResult:
        """Separate `song` into the folder `out`; `found`: its probe.

        Stems are named after the file, since two files may have the same tags. Earlier stems of the same file are
        replaced. Paths in the result are those of the files. Raises `InputRefused` and `AttemptError`s.
        """
        await self._wait_for_worker()
        spec = AttemptSpec(
            job_id=new_job_id(),
            attempt=1,
            input_key="song",
            scratch_key="scratch",
            output_key="done",
            options=options,
            title=safe_title(found.title or song.stem),
            artist=found.artist,
            seed=plan.seed,
            max_duration_s=self._limits.max_duration_s,
            shifts=plan.shifts,
            overlap=plan.overlap,
        )
        try:
            await asyncio.to_thread(shutil.copyfile, song, self._work / "song")
            done = await self._pool.run(
                spec,
                timeout_s=float("inf"),
                on_progress=lambda stage, fraction: on_progress(stage, overall_progress(stage, fraction)),
            )
            rename = partial(_output_name, title=spec.title, prefix=safe_title(song.stem))
            _make_output_folder(out)
            for file in (self._work / "done").iterdir():
                await asyncio.to_thread(_move, file, out / rename(file.name))
        except OSError as error:
            raise StorageFailed(f"{song.name} cannot be read, or its stems not written: {error.strerror}.") from error
        finally:
            for name in ("done", "scratch"):
                await asyncio.to_thread(shutil.rmtree, self._work / name, ignore_errors=True)
        return _relocate(done.result, out, rename)


def _make_output_folder(folder: Path) -> list[Path]:
    """Create a folder and return the folders created, innermost first. Raises `InputRefused`."""
    try:
        return make_folder(folder)
    except OSError as error:
        reason = "a file has this name" if folder.is_file() else error.strerror
        raise InputRefused(f"The folder {folder} cannot be created: {reason}. Choose another with --out.") from error


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it is in use
            folder.rmdir()


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
    stem_file = result.stem_file
    if stem_file is not None:
        filename = rename(stem_file.filename)
        stem_file = stem_file.model_copy(update={"filename": filename, "path": str(out / filename)})
    music = result.music
    if music is not None:
        paths = {"beats_path": music.beats_path, "chords_path": music.chords_path}
        music = music.model_copy(
            update={field: str(out / rename(Path(path).name)) for field, path in paths.items() if path is not None}
        )
    return result.model_copy(
        update={
            "music": music,
            "stem_file": stem_file,
            "output_dir": str(out),
            "stems": StemFiles.model_validate(stems),
            "waveform_path": str(out / rename("waveform.png")),
            "peaks_path": str(out / rename("peaks.json")),
        }
    )
