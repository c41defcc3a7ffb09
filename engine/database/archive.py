"""The archive: one database per month, `archive/YYYY-MM.sqlite3`, with jobs as zlib-compressed JSON.

The month comes from the job's id (a UUIDv7 contains its creation time), so a look-up by id opens one file. A job is
first copied here and synced, then deleted from the hot database. After a crash in between it is in both: the hot row
takes precedence, and the copy is repeated.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

from engine.database.database import to_store_error
from engine.database.errors import StoreDamaged
from engine.database.rows import to_us
from engine.jobs.entity import id_time
from engine.jobs.job import Job

_MONTH_FILE = re.compile(r"\d{4}-\d{2}\.sqlite3")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id         TEXT PRIMARY KEY NOT NULL,
    owner      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    job        BLOB NOT NULL  -- Job as JSON, zlib
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_owner ON jobs (owner, created_at);
"""
_ADD = "INSERT OR REPLACE INTO jobs (id, owner, created_at, job) VALUES (?, ?, ?, ?)"


def month_of(job_id: str) -> str | None:
    """Return the "YYYY-MM" of a UUIDv7, or None for other ids and impossible times."""
    value = UUID(job_id)
    if value.version != 7:
        return None
    try:
        return f"{id_time(job_id):%Y-%m}"
    except (OverflowError, ValueError, OSError):
        return None


def serialize(job: Job) -> bytes:
    return zlib.compress(job.model_dump_json().encode())


def deserialize(data: bytes) -> Job:
    """Return the job. Raises `StoreDamaged`."""
    try:
        return Job.model_validate_json(zlib.decompress(data))
    except (zlib.error, ValueError) as error:
        raise StoreDamaged(detail=f"archived job: {type(error).__name__}") from error


class Archive:
    """The monthly databases. Calls block and open a connection each; writes must not overlap."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, jobs: Iterable[Job]) -> None:
        """Add or replace jobs, synced to disk on return."""
        months: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            months[month_of(job.id) or f"{job.created_at:%Y-%m}"].append(job)
        for month, jobs_of_month in sorted(months.items()):
            path = self.folder / f"{month}.sqlite3"
            if not path.exists():
                self._create(path)
            with self._connect(path) as connection, connection:
                connection.executemany(
                    _ADD, [(job.id, job.owner, to_us(job.created_at), serialize(job)) for job in jobs_of_month]
                )

    def _create(self, path: Path) -> None:
        """Create the file by rename: readers and backups never see it without its table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)  # of a killed process
        with self._connect(part) as connection:
            connection.executescript(_SCHEMA)
        part.rename(path)

    def get(self, job_id: str) -> Job | None:
        for path in self._files_for(job_id):
            with self._connect(path) as connection:
                row = connection.execute("SELECT job FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row:
                return deserialize(row[0])
        return None

    def of(self, owner: str, limit: int, offset: int = 0) -> list[Job]:
        """Return the owner's archived jobs from `offset` on, newest first; a negative `limit` is none."""
        found: list[Job] = []
        for path in reversed(self._all_files()):
            with self._connect(path) as connection:
                rows = connection.execute(
                    "SELECT job FROM jobs WHERE owner = ? ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?",
                    (owner, limit if limit < 0 else limit - len(found), offset),
                ).fetchall()
                if offset:
                    (here,) = connection.execute("SELECT count(*) FROM jobs WHERE owner = ?", (owner,)).fetchone()
                    offset = max(0, offset - here)
            found.extend(deserialize(row[0]) for row in rows)
            if 0 <= limit <= len(found):
                break
        return found

    def ids_of(self, owner: str) -> list[str]:
        found: list[str] = []
        for path in self._all_files():
            with self._connect(path) as connection:
                rows = connection.execute("SELECT id FROM jobs WHERE owner = ? ORDER BY created_at", (owner,))
                found.extend(str(row[0]) for row in rows)
        return found

    def set_keep(self, job_id: str, keep: bool) -> Job | None:
        job = self.get(job_id)
        if job is None or job.keep == keep:
            return job
        changed = job.model_copy(update={"keep": keep})
        self.add([changed])
        return changed

    def delete(self, job_id: str) -> bool:
        gone = 0
        for path in self._files_for(job_id):
            with self._connect(path) as connection, connection:
                gone += connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,)).rowcount
        return gone > 0

    def months(self) -> list[str]:
        return [path.stem for path in self._all_files()]

    def _files_for(self, job_id: str) -> list[Path]:
        month = month_of(job_id)
        if month is None:  # not a UUIDv7: in any file
            return self._all_files()
        path = self.folder / f"{month}.sqlite3"
        return [path] if path.is_file() else []

    def _all_files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _MONTH_FILE.fullmatch(path.name))

    @contextmanager
    def _connect(self, path: Path) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(path, timeout=5.0)) as connection:
                connection.execute("PRAGMA synchronous=FULL")
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise to_store_error(error, path) from error
