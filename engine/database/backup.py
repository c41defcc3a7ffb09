"""`python -m engine backup` and `restore`: everything that could not be made again, as one folder.

A backup is taken while the bot serves. SQLite's online backup copies each database as it is at one moment. Their
order makes the copies fit together: the jobs first, with the songs of those that are not over (what moves to the
archive afterwards is then in both, and the hot row counts), then the archive, then the bot's (what it has announced by
then is not announced again), then the other files (a result's are there before its row says so).

    backup.json                   what is in it; written last, so a backup that was broken off has none
    stemify.sqlite3  archive/…    jobs, quota, learned speeds; the jobs of earlier months
    bot.sqlite3                   and any other database of a front end
    keys/                         the links that people have stay good
    jobs/<id>/input               songs that still wait, run, or may be tried again
    jobs/<id>/a<attempt>/         stems, unless they were left out

Where songs and stems lie in object storage, they stay there (a bucket has versions of its own): only the databases and
keys are copied. Models are not in it: they are fetched again. It holds people's songs and the key of their links: it is
made readable for its owner alone.
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
_MAY_BE_THERE = {LOCK, "models", "lost+found"}  # in a data folder that counts as empty
_JOB_FILE = re.compile(
    r"jobs/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/(?:input[^/]*|(?P<stem>a[1-9][0-9]{0,3}/[^/]+))"
)
_MAX_ATTEMPTS = 5
_PAGES_PER_STEP = 5000  # copied at a time, so that whoever writes to an archive meanwhile is let through


class BackupFailed(StemifyError):
    """The backup could not be made."""

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
    """Copy what is in the data folder into the new folder `target`, whole or not at all; whether a bot serves
    meanwhile makes no difference. `songs_here`: songs and stems lie in the data folder. Raises `BackupFailed`."""
    target = target.absolute()
    if not (data / HOT).is_file():
        raise BackupFailed(f"There is nothing to back up: no {HOT} in {data}. Set STEMIFY_DATA_DIR.")
    try:
        taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise BackupFailed(f"{target} cannot be read: {error.strerror}.") from error
    if taken or not target.name:
        raise BackupFailed(f"{target} is there already. Name a new folder for each backup.")
    if target.resolve().is_relative_to(data.resolve()):
        raise BackupFailed(f"{target} is inside the data folder. Put the backup somewhere else, best on another disk.")
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of one that was broken off
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
        raise BackupFailed(f"The backup could not be made: {error}.") from error
    return contents


def restore(source: Path, data: Path) -> Manifest:
    """Put a backup into an empty data folder (fetched models may be there). Jobs that were running go on at the next
    start. Raises `BackupFailed`, `AlreadyRunning`; nothing is ever overwritten."""
    try:
        contents = Manifest.model_validate_json((source / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise BackupFailed(f"{source} is not a backup, or one that was broken off: it has no {MANIFEST}.") from None
    except (OSError, ValidationError) as error:
        raise BackupFailed(f"{source / MANIFEST} cannot be read: {error}") from error
    for name in contents.databases:
        _check_database(source / name)
    try:
        private_folder(data)
        with exclusive_lock(data / LOCK):
            if found := sorted(entry.name for entry in data.iterdir() if entry.name not in _MAY_BE_THERE):
                raise BackupFailed(
                    f"The data folder {data} is not empty (there is {found[0]}). Move what is in it away, or restore "
                    "into another one (STEMIFY_DATA_DIR)."
                )
            files = (path for path in sorted(source.rglob("*")) if path.is_file() and path.name != MANIFEST)
            for path in sorted(files, key=lambda path: path == source / HOT):  # the jobs last: with them it counts
                _copy(path, data / path.relative_to(source))
            os.sync()
    except OSError as error:
        raise BackupFailed(f"The backup could not be put back: {error}. Empty {data} and try again.") from error
    return contents


def _copy_jobs(data: Path, part: Path, songs_here: bool) -> int:
    """The hot database, and the song of every job in it that is not over. One that ended while its song was still to
    be copied has no song any more: then the database is copied again, in which it has ended, too."""
    for _ in range(_MAX_ATTEMPTS):
        size_bytes = _copy_database(data / HOT, part / HOT)
        with closing(_connect(part / HOT)) as copy:
            songs = [f"jobs/{row[0]}/input" for row in copy.execute(QUERIES["uploads_needed"])]
        missing = [song for song in songs if songs_here and not _copy(data / song, part / song)]
        if not missing:
            break
    else:
        log.warning("backup: %s is not on the disk; its job will fail here, and where this is restored", missing[0])
    return size_bytes


def _other_databases(data: Path) -> Iterator[str]:
    """In the order in which they are to be copied; each is looked for when its turn comes."""
    yield from (f"archive/{path.name}" for path in sorted((data / "archive").glob("*.sqlite3")))
    yield from (path.name for path in sorted(data.glob("*.sqlite3")) if path.name != HOT)


def _files(data: Path, with_stems: bool) -> Iterator[str]:
    yield from (f"keys/{path.name}" for path in sorted((data / "keys").glob("*.key")))
    if (data / "handover.json").is_file():
        yield "handover.json"
    for folder, _, names in os.walk(data / "jobs"):  # it does not mind that folders go while it walks
        for name in names:
            path = Path(folder, name)
            key = path.relative_to(data).as_posix()
            found = _JOB_FILE.fullmatch(key)
            if found and (with_stems or not found["stem"]) and path.is_file() and not path.is_symlink():
                yield key


def _copy_database(source: Path, target: Path) -> int:
    """SQLite's online backup, checked; its size in bytes."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    target.touch(mode=0o600)
    with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=30)) as original:
        in_wal = original.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        with closing(sqlite3.connect(target)) as copy:
            # With a WAL nobody waits for a reader, so all at once: in steps it would begin anew at every write.
            original.backup(copy, pages=-1 if in_wal else _PAGES_PER_STEP, sleep=0.01)
    _check_database(target)
    return target.stat().st_size


def _connect(copy: Path) -> sqlite3.Connection:
    """For reading what nobody writes to."""
    return sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _check_database(path: Path) -> None:
    try:
        with closing(_connect(path)) as database:
            complaint = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        complaint = str(error)
    if complaint != "ok":
        raise BackupFailed(f"The database {path} is damaged: {complaint}.")


def _copy(source: Path, target: Path) -> bool:
    """Whether it is there; it may have gone meanwhile (its job is over, or was deleted)."""
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
