"""Back up and restore the data folder (`python -m engine backup` and `restore`).

    backup.json                   the manifest; written last, so an incomplete backup has none
    stemify.sqlite3  archive/…    jobs, quota, learned speeds; the jobs of earlier months
    bot.sqlite3                   and other databases of front ends
    keys/                         the key that signs links
    jobs/<id>/input               inputs of jobs that are pending, running or may be retried
    jobs/<id>/a<attempt>/         stems, unless left out

The bot may run during a backup. The order keeps the copies consistent: the jobs and the inputs of unfinished ones,
then the archive (a job archived in between is in both, and the hot row takes precedence), then the bot's database (it
does not announce a job again), then the other files (a result's files exist before its row).

Files in object storage are not copied, nor are models. Only the owner can read a backup: it contains users' songs and
the key of their links.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.database.lock import exclusive_lock
from engine.database.sql import QUERIES
from engine.errors import StemifyError
from engine.process.private_files import private_folder

log = logging.getLogger(__name__)

MANIFEST, HOT, LOCK = "backup.json", "stemify.sqlite3", "stemify.lock"
_IGNORED = {LOCK, "models", "lost+found"}  # in an empty data folder
_JOB_FILE = re.compile(
    r"jobs/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/(?:input[^/]*|(?P<stem>a[1-9][0-9]{0,3}/[^/]+))"
)
_MAX_ATTEMPTS = 5
_PAGES_PER_STEP = 5000  # copied at a time, so that writers of an archive can go on in between


class BackupFailed(StemifyError):
    """The backup failed."""

    code = "backup_failed"


class Manifest(BaseModel):
    """`backup.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    made_at: datetime
    databases: dict[str, int]  # name → bytes
    files: int
    file_bytes: int
    with_stems: bool


def back_up(data: Path, target: Path, *, with_stems: bool = True, songs_here: bool = True) -> Manifest:
    """Copy the data folder into the new folder `target`, completely or not at all. The bot may be running.

    `songs_here`: inputs and stems are in the data folder. Raises `BackupFailed`.
    """
    target = target.absolute()
    if not (data / HOT).is_file():
        raise BackupFailed(f"There is nothing to back up: no {HOT} in {data}. Set STEMIFY_DATA_DIR.")
    try:
        taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise BackupFailed(f"{target} cannot be read: {error.strerror}.") from error
    if taken or not target.name:
        raise BackupFailed(f"{target} already exists. Use a new folder for each backup.")
    if target.resolve().is_relative_to(data.resolve()):
        raise BackupFailed(f"{target} is inside the data folder. Put the backup elsewhere, preferably on another disk.")
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of an interrupted backup
        part.mkdir(mode=0o700, parents=True)
        databases = {HOT: _copy_jobs(data, part, songs_here)}
        databases |= {name: _copy_database(data / name, part / name) for name in _other_databases(data)}
        for key in _files(data, with_stems):
            _copy(data / key, part / key)
        sizes = [path.stat().st_size for path in part.rglob("*") if path.is_file() and path.suffix != ".sqlite3"]
        contents = Manifest(
            made_at=datetime.now(UTC),
            databases=databases,
            files=len(sizes),
            file_bytes=sum(sizes),
            with_stems=with_stems,
        )
        os.sync()
        (part / MANIFEST).write_text(contents.model_dump_json(indent=2))
        if target.exists():
            target.rmdir()
        part.rename(target)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise BackupFailed(f"The backup failed: {error}.") from error
    return contents


def restore(source: Path, data: Path) -> Manifest:
    """Copy a backup into an empty data folder, which may contain models, without overwriting a file.

    Jobs that were running resume at the next start. Raises `BackupFailed`, `AlreadyRunning`.
    """
    try:
        contents = Manifest.model_validate_json((source / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise BackupFailed(f"{source} is not a complete backup: it has no {MANIFEST}.") from None
    except (OSError, ValidationError) as error:
        raise BackupFailed(f"{source / MANIFEST} cannot be read: {error}") from error
    for name in contents.databases:
        _check_database(source / name)
    try:
        private_folder(data)
        with exclusive_lock(data / LOCK):
            if found := sorted(entry.name for entry in data.iterdir() if entry.name not in _IGNORED):
                raise BackupFailed(
                    f"The data folder {data} is not empty (it contains {found[0]}). Empty it, or restore into another "
                    "one (STEMIFY_DATA_DIR)."
                )
            files = (path for path in sorted(source.rglob("*")) if path.is_file() and path.name != MANIFEST)
            for path in sorted(files, key=lambda path: path == source / HOT):  # the jobs last, to mark completion
                _copy(path, data / path.relative_to(source))
            os.sync()
    except OSError as error:
        raise BackupFailed(f"The backup could not be restored: {error}. Empty {data} and try again.") from error
    return contents


def _copy_jobs(data: Path, part: Path, songs_here: bool) -> int:
    """Copy the hot database and the inputs of its unfinished jobs, and return the size of the database.

    If an input is missing because its job has just ended, the database is copied again.
    """
    for _ in range(_MAX_ATTEMPTS):
        size_bytes = _copy_database(data / HOT, part / HOT)
        with closing(_connect(part / HOT)) as copy:
            songs = [f"jobs/{row[0]}/input" for row in copy.execute(QUERIES["uploads_needed"])]
        missing = [song for song in songs if songs_here and not _copy(data / song, part / song)]
        if not missing:
            break
    else:
        log.warning("backup: %s is missing; its job will fail here and after a restore", missing[0])
    return size_bytes


def _other_databases(data: Path) -> Iterator[str]:
    """Yield the names of the other databases in copying order, each looked up as late as possible."""
    yield from (f"archive/{path.name}" for path in sorted((data / "archive").glob("*.sqlite3")))
    yield from (path.name for path in sorted(data.glob("*.sqlite3")) if path.name != HOT)


def _files(data: Path, with_stems: bool) -> Iterator[str]:
    yield from (f"keys/{path.name}" for path in sorted((data / "keys").glob("*.key")))
    if (data / "handover.json").is_file():
        yield "handover.json"
    for folder, _, names in os.walk(data / "jobs"):  # tolerates folders that are deleted during the walk
        for name in names:
            path = Path(folder, name)
            key = path.relative_to(data).as_posix()
            found = _JOB_FILE.fullmatch(key)
            if found and (with_stems or not found["stem"]) and path.is_file() and not path.is_symlink():
                yield key


def _copy_database(source: Path, target: Path) -> int:
    """Copy a database by SQLite's online backup, check it and return its size in bytes."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    target.touch(mode=0o600)
    with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=30)) as original:
        in_wal = original.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        with closing(sqlite3.connect(target)) as copy:
            # A reader of a WAL blocks no writer, so in one step: several would restart at every write.
            original.backup(copy, pages=-1 if in_wal else _PAGES_PER_STEP, sleep=0.01)
    _check_database(target)
    return target.stat().st_size


def _connect(copy: Path) -> sqlite3.Connection:
    """Open a database that is not being written, for reading."""
    return sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _check_database(path: Path) -> None:
    try:
        with closing(_connect(path)) as database:
            problem = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        problem = str(error)
    if problem != "ok":
        raise BackupFailed(f"The database {path} is damaged: {problem}.")


def _copy(source: Path, target: Path) -> bool:
    """Copy a file, and return False if it no longer exists (its job ended or was deleted)."""
    if target.is_file():
        return True
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with source.open("rb") as original, open(target, "xb", opener=_make_private) as copy:
            shutil.copyfileobj(original, copy, 2**20)
    except FileNotFoundError:
        return False
    return True


def _make_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
